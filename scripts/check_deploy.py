"""Checks the Kubernetes manifests, the Helm chart and the KServe example against published schemas and each other.

Run by scripts/check-deploy.sh. Renders the chart with Helm's own library, and the overlays with kubectl where it is installed.
"""

import ast
import importlib.util
import os
import pathlib
import re
import re
import shutil
import subprocess
import sys
import tomllib
import warnings

import helm_python
import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

ROOT = pathlib.Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/classifyd"
KUBERNETES = os.environ["KUBERNETES"].split()
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
# Defaults of the server's drain_delay plus grace.
DEFAULT_DRAIN = 5 + 25
# The maximum time for final responses and lanes after that.
LAST_WORDS = 4

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")

problems = []


def problem(source, text):
    problems.append(f"{source}: {text}")


def seconds(text):
    """Parses a duration such as `1m 30s` into seconds."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    total = 0
    for part in str(text).split():
        number = part.rstrip("msh")
        total += float(number) * units[part[len(number) :]]
    return total


def port_of(address):
    return int(address.rsplit(":", 1)[1])


class KServe:
    """The types of KServe's resources, from its client package."""

    def __init__(self):
        self.directory = pathlib.Path(importlib.util.find_spec("kserve").submodule_search_locations[0]) / "models"
        self.types = {}

    def fields(self, name):
        """The types of a model's JSON keys, or None if it is not one of KServe's."""
        if name not in self.types:
            self.types[name] = None
            for file in self.directory.glob("*.py"):
                tree = ast.parse(file.read_text())
                for node in tree.body:
                    if isinstance(node, ast.ClassDef):
                        tables = {
                            target.id: ast.literal_eval(item.value)
                            for item in node.body
                            if isinstance(item, ast.Assign)
                            for target in item.targets
                            if isinstance(target, ast.Name) and target.id in ("openapi_types", "attribute_map")
                        }
                        if len(tables) == 2:
                            keys = tables["attribute_map"]
                            self.types[node.name] = {keys[field]: kind for field, kind in tables["openapi_types"].items()}
        return self.types[name]

    def check(self, source, value, kind, place):
        scalars = {"str": str, "int": int, "bool": bool}
        if kind.startswith("list["):
            if not isinstance(value, list):
                problem(source, f"{place}: expected a list, found {value!r}")
                return
            for index, item in enumerate(value):
                self.check(source, item, kind[5:-1], f"{place}[{index}]")
        elif kind in scalars:
            if type(value) is not scalars[kind]:
                problem(source, f"{place}: expected {kind}, found {value!r}")
        elif kind == "V1Container":
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [value]}}
            kubernetes(source, pod)
        elif (fields := self.fields(kind)) is not None:
            if not isinstance(value, dict):
                problem(source, f"{place}: expected {kind}, found {value!r}")
                return
            for key, item in value.items():
                if key in fields:
                    self.check(source, item, fields[key], f"{place}.{key}")
                else:
                    problem(source, f"{place}: {kind} has no key {key!r}")


KSERVE = KServe()


def kubernetes(source, document):
    """Validates against Kubernetes' own schemas and rejects unknown keys."""
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            problem(source, f"{document['kind']}: {place}: {error.message} (Kubernetes {version})")


def check_schema(source, document):
    api = document["apiVersion"]
    if api == "monitoring.coreos.com/v1":
        try:
            getattr(prometheus_operator, document["kind"]).model_validate(document, extra="forbid")
        except ValueError as error:
            problem(source, f"{document['kind']}: {error}")
    elif api.startswith("serving.kserve.io/"):
        version = api.split("/")[1]
        name = version[0].upper() + version[1:] + document["kind"]
        if KSERVE.fields(name) is None:
            problem(source, f"KServe has no {name}")
        else:
            KSERVE.check(source, document, name, document["kind"])
    else:
        kubernetes(source, document)


def by_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def selects(selector, labels):
    return selector and selector.items() <= labels.items()


def check_together(source, documents):
    """Checks that no schema can express."""
    [deployment] = by_kind(documents, "Deployment")
    [config_map] = by_kind(documents, "ConfigMap")
    config = tomllib.loads(config_map["data"]["classifyd.toml"])
    template = deployment["spec"]["template"]
    pod = template["spec"]
    [container] = pod["containers"]

    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = sleep + seconds(config["drain_delay"]) + seconds(config["grace"]) + LAST_WORDS
    given = pod["terminationGracePeriodSeconds"]
    if given < needed:
        problem(source, f"terminationGracePeriodSeconds: expected at least {needed:g}, found {given}")

    version = container["image"].rsplit(":", 1)[1].removesuffix("-gpu")
    if version != VERSION:
        problem(source, f"image: expected the version of Cargo.toml, {VERSION}, found {container['image']}")

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name in PROBES:
        if container[name]["httpGet"]["port"] != "admin":
            problem(source, f"{name}: expected the port admin, found {container[name]}")
    listening = {"http": port_of(config["listen"]), "admin": port_of(config["admin_listen"])}
    if listening != ports:
        problem(source, f"listen and admin_listen: expected the container's ports {ports}, found {listening}")
    mounted = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    if config_map["metadata"]["name"] not in mounted:
        problem(source, f"no volume of the ConfigMap {config_map['metadata']['name']}")
    if pod["serviceAccountName"] not in [document["metadata"]["name"] for document in by_kind(documents, "ServiceAccount")]:
        problem(source, f"no ServiceAccount {pod['serviceAccountName']}")

    labels = template["metadata"]["labels"]
    selectors = [("Deployment", deployment["spec"]["selector"]["matchLabels"])]
    [service] = by_kind(documents, "Service")
    selectors.append(("Service", service["spec"]["selector"]))
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for document in by_kind(documents, kind):
            spec = document["spec"]
            selector = spec.get("selector") or spec.get("podSelector") or {}
            selectors.append((kind, selector.get("matchLabels")))
    for constraint in pod["topologySpreadConstraints"]:
        selectors.append(("topologySpreadConstraints", constraint["labelSelector"]["matchLabels"]))
    for term in pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]:
        selectors.append(("podAntiAffinity", term["podAffinityTerm"]["labelSelector"]["matchLabels"]))
    for kind, selector in selectors:
        if not selects(selector, labels):
            problem(source, f"{kind}: {selector} does not select the pods, whose labels are {labels}")
    for service_port in service["spec"]["ports"]:
        # Clients must not reach probes and metrics.
        if service_port["targetPort"] != "http":
            problem(source, f"Service: expected the target port http, found {service_port['targetPort']}")
    for policy in by_kind(documents, "NetworkPolicy"):
        check_network_policy(source, policy["spec"]["ingress"])
    for monitor in by_kind(documents, "PodMonitor"):
        if not selects(monitor["spec"]["selector"]["matchLabels"], labels):
            problem(source, "the PodMonitor does not select the pods")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] != "admin":
                problem(source, f"PodMonitor: expected the port admin, found {endpoint['port']}")
    for scaler in by_kind(documents, "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        if spec["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
            problem(source, "the HorizontalPodAutoscaler does not scale the Deployment")
        if "replicas" in deployment["spec"]:
            problem(source, "replicas: an apply would override the HorizontalPodAutoscaler")
        for budget in by_kind(documents, "PodDisruptionBudget"):
            if budget["spec"]["maxUnavailable"] >= spec["minReplicas"]:
                problem(source, "the PodDisruptionBudget allows evicting all pods")
        for metric in spec["metrics"]:
            if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] not in ADAPTER_METRICS:
                problem(source, f"HorizontalPodAutoscaler: {metric['pods']['metric']['name']} is none of {ADAPTER_METRICS}")


def check_network_policy(source, rules):
    """Clients may reach the port http, Prometheus the port admin, and nobody both."""
    sources = {}
    for rule in rules:
        [port] = rule["ports"]
        if not rule["from"]:
            problem(source, f"NetworkPolicy: everybody may reach the port {port['port']}")
        sources.setdefault(port["port"], []).extend(rule["from"])
    if "http" not in sources or not sources.keys() <= {"http", "admin"}:
        problem(source, f"NetworkPolicy: expected the ports http and admin, found {list(sources)}")
    for peer in sources.get("admin", []):
        if peer in sources["http"]:
            problem(source, f"NetworkPolicy: {peer} may reach both ports")


def adapter_metrics():
    """The metrics that the prometheus-adapter rules provide from the server's series."""
    source = "prometheus-adapter-values.yaml"
    rules = yaml.safe_load((DEPLOY / "kubernetes" / source).read_text())["rules"]["custom"]
    server = (ROOT / "src/metrics.rs").read_text()
    for rule in rules:
        series = rule["seriesQuery"].split("{")[0]
        if f'"{series}"' not in server or f"({series}{{" not in rule["metricsQuery"]:
            problem(source, f"{series}: expected a metric of the server, and a query of it")
    return [rule["name"]["as"] for rule in rules]


ADAPTER_METRICS = adapter_metrics()


def check_gpu(source, documents, wanted):
    """A manifest requests a GPU exactly if the server is configured to use one."""
    [deployment] = by_kind(documents, "Deployment")
    [config_map] = by_kind(documents, "ConfigMap")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
    config = tomllib.loads(config_map["data"]["classifyd.toml"])
    device = environment.get("CLASSIFYD_DEVICE", config.get("device", "cpu"))
    gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
    image_has_cuda = container["image"].endswith("-gpu")
    if (device != "cpu", gpus > 0, image_has_cuda) != (wanted, wanted, wanted):
        kind = "a GPU" if wanted else "no GPU"
        problem(source, f"expected {kind}, found device {device}, {gpus} of nvidia.com/gpu and the image {container['image']}")


def check(source, text, together=True, gpu=False):
    documents = [document for document in yaml.safe_load_all(text) if document]
    if not documents:
        problem(source, "no resource")
    for document in documents:
        check_schema(source, document)
    if together and not problems:
        check_together(source, documents)
        check_gpu(source, documents, gpu)
    print(f"{source}: {len(documents)} resources")


def check_chart():
    variants = {
        "defaults": {},
        "everything": {
            "gpu": {"enabled": True},
            "startupSeconds": 300,
            "autoscaling": {"queueDepth": {"enabled": True}},
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "networkPolicy": {"adminNamespaces": ["prometheus"], "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]},
            "modelsVolume": {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            "extraEnv": [{"name": "CLASSIFYD_LOG", "value": "debug"}],
            "extraVolumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
            "extraVolumeMounts": [{"name": "keys", "mountPath": "/etc/classifyd-keys", "readOnly": True}],
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "podAnnotations": {"team": "vision"},
            "config": "queue_capacity = 256\n",
        },
        "nothing optional": {
            "autoscaling": {"enabled": False},
            "podDisruptionBudget": {"enabled": False},
            "networkPolicy": {"enabled": False},
        },
        "metrics for nobody": {"networkPolicy": {"adminNamespaces": []}},
    }
    with helm_python.Chart.load(str(CHART)) as chart:
        for name, values in variants.items():
            source = f"Helm chart, {name}"
            report = helm_python.lint(str(CHART), values, strict=True, kube_version="v1.30.0")
            for message in report["messages"]:
                # A missing icon is the only accepted remark.
                if message["severity"] >= 2 or "icon" not in message["error"]:
                    problem(source, message["error"])
            for error in report["errors"]:
                problem(source, error)
            manifests = chart.render(chart.merge_values(values), name="release", namespace="serving")
            text = "\n---\n".join(text for path, text in manifests.items() if path.endswith(".yaml"))
            check(source, text, gpu=values.get("gpu", {}).get("enabled", False))
        for values in ({"imgae": {}}, {"shutdown": {"grace": "25s"}}, {"gpu": {"device": "cpu"}}):
            try:
                chart.validate_schema(values)
            except helm_python.HelmError:
                continue
            problem("Helm chart", f"values.schema.json lets {values} pass")


def check_overlays():
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        print("kustomize overlays: NOT CHECKED, kubectl was not found")
        if os.environ.get("CI"):
            problem("kustomize overlays", "kubectl is needed where CI is set")
        return
    for directory in ("base", "overlays/gpu"):
        path = DEPLOY / "kubernetes" / directory
        rendered = subprocess.run([kubectl, "kustomize", path], capture_output=True, text=True)
        if rendered.returncode or rendered.stderr:
            problem(directory, rendered.stderr)
        else:
            check(f"kustomize, {directory}", rendered.stdout, gpu=directory.endswith("/gpu"))


def check_kserve():
    texts = {file.name: file.read_text() for file in sorted((DEPLOY / "kserve").glob("*.yaml"))}
    for name, text in texts.items():
        check(f"KServe, {name}", text, together=False)
    runtime = yaml.safe_load(texts["serving-runtime.yaml"])
    predictor = yaml.safe_load(texts["inference-service.yaml"])["spec"]["predictor"]
    [container] = runtime["spec"]["containers"]
    needed = container["lifecycle"]["preStop"]["sleep"]["seconds"] + DEFAULT_DRAIN + LAST_WORDS
    if predictor["terminationGracePeriodSeconds"] < needed:
        problem("KServe", f"terminationGracePeriodSeconds: expected at least {needed}")
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    admin = port_of(environment["CLASSIFYD_ADMIN_LISTEN"])
    asked = {container[name]["httpGet"]["port"] for name in PROBES}
    asked.add(int(runtime["spec"]["annotations"]["prometheus.kserve.io/port"]))
    if asked != {admin}:
        problem("KServe", f"probes and metrics: expected the port of CLASSIFYD_ADMIN_LISTEN, {admin}, found {asked}")
    exposed = [port["containerPort"] for port in container["ports"]]
    if exposed != [port_of(environment["CLASSIFYD_LISTEN"])]:
        problem("KServe", f"ports: expected that of CLASSIFYD_LISTEN alone, found {exposed}")
    if container["image"] != f"classifyd:{VERSION}":
        problem("KServe", f"image: expected the version of Cargo.toml, {VERSION}, found {container['image']}")
    formats = [entry["name"] for entry in runtime["spec"]["supportedModelFormats"]]
    if predictor["model"]["runtime"] != runtime["metadata"]["name"] or predictor["model"]["modelFormat"]["name"] not in formats:
        problem("KServe", "the InferenceService does not name the ServingRuntime and its format")


def check_compose_and_unit():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    defaults = DEFAULT_DRAIN + LAST_WORDS
    for name, service in compose["services"].items():
        if name.startswith("classifyd") and seconds(service["stop_grace_period"]) < defaults:
            problem("docker-compose.yml", f"{name}: stop_grace_period: expected at least {defaults} s")
        image = service["image"].removesuffix("-gpu")
        if name.startswith("classifyd") and image != f"classifyd:{VERSION}":
            problem("docker-compose.yml", f"{name}: image: expected the version of Cargo.toml, {VERSION}, found {image}")
        for volume in service.get("volumes", []):
            path = volume.split(":")[0]
            if path.startswith(".") and not (ROOT / path).exists():
                problem("docker-compose.yml", f"{name}: {path} does not exist")
    check_compose_admin(compose["services"])
    unit = (DEPLOY / "systemd/classifyd.service").read_text()
    [stop] = [line.split("=")[1] for line in unit.splitlines() if line.startswith("TimeoutStopSec=")]
    if float(stop) < defaults:
        problem("classifyd.service", f"TimeoutStopSec: expected at least {defaults} s, found {stop}")


def check_compose_admin(services):
    """Probes and metrics are on an unpublished port, which HAProxy and Prometheus use."""
    source = "docker-compose.yml"
    servers = {name: service for name, service in services.items() if name.startswith("classifyd")}
    admin = {port_of(service["environment"]["CLASSIFYD_ADMIN_LISTEN"]) for service in servers.values()}
    if len(admin) != 1:
        problem(source, f"CLASSIFYD_ADMIN_LISTEN: expected one port, found {admin}")
    [admin] = admin
    for name, service in servers.items():
        for published in service.get("ports", []):
            if port_of(published) == admin:
                problem(source, f"{name}: {published} publishes the port of probes and metrics")
    asked = services["haproxy"]["environment"]["ADMIN_PORT"]
    if asked != str(admin):
        problem(source, f"haproxy: ADMIN_PORT: expected {admin}, found {asked}")
    jobs = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    [job] = [job for job in jobs if job["job_name"] == "classifyd"]
    for target in (target for entry in job["static_configs"] for target in entry["targets"]):
        if target.split(":")[0] not in servers or port_of(target) != admin:
            problem("prometheus.yml", f"{target}: expected a server of docker-compose.yml and the port {admin}")


def check_gpu_image():
    """The image has the CUDA version that ONNX Runtime needs, and its configuration uses it."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    setup = (ROOT / "scripts/setup-onnxruntime.sh").read_text()
    pinned = (ROOT / "scripts/cuda-requirements.txt").read_text()
    version = re.search(r"^version=(.+)$", setup, re.MULTILINE)[1]
    if f"/libonnxruntime.so.{version}\n" not in dockerfile:
        problem("Dockerfile", f"CLASSIFYD_ONNXRUNTIME: expected libonnxruntime.so.{version}, which setup-onnxruntime.sh fetches")
    cuda = re.search(r"^nvidia-cuda-runtime==([0-9]+\.[0-9]+)\.", pinned, re.MULTILINE)[1]
    tag = re.search(r"^ARG CUDA=(.+)$", dockerfile, re.MULTILINE)[1]
    if not tag.startswith(f"{cuda}.") or "-cudnn-runtime-" not in tag:
        problem("Dockerfile", f"CUDA: expected a tag of CUDA {cuda} with cuDNN, found {tag}")
    [copied] = re.findall(r"^COPY (\S+) /etc/classifyd/classifyd.toml$", dockerfile, re.MULTILINE)
    device = tomllib.loads((ROOT / copied).read_text()).get("device")
    if device != "cuda":
        problem(copied, f"device: expected cuda, found {device}")
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["classifyd-gpu"]
    devices = service["deploy"]["resources"]["reservations"]["devices"]
    if service["build"]["target"] != "gpu" or not any("gpu" in device["capabilities"] for device in devices):
        problem("docker-compose.yml", "classifyd-gpu: expected the target gpu and a device with the capability gpu")


def check_docker_context():
    """The image's build has every file that the sources include in the binary."""
    source = ".dockerignore"
    allowed = [line[1:] for line in (ROOT / source).read_text().splitlines() if line.startswith("!")]
    for file in [*(ROOT / "src").rglob("*.rs"), *(ROOT / "classifier/src").rglob("*.rs")]:
        # Tests and their files are not in the image.
        if file.stem == "tests" or file.stem.endswith("_tests"):
            continue
        for line in file.read_text().splitlines():
            found = re.search(r'include_(?:str|bytes)!\("([^"]+)"\)', line)
            if found and not line.startswith("#[doc"):
                path = (file.parent / found[1]).resolve().relative_to(ROOT.resolve())
                if not any(path.is_relative_to(prefix) for prefix in allowed):
                    problem(source, f"{path}, which {file.relative_to(ROOT)} includes, is left out")


def check_runbook():
    alerts = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    for rule in (rule for group in alerts["groups"] for rule in group["rules"]):
        page, anchor = rule["annotations"]["runbook"].split("#")
        headings = [line[4:].lower() for line in (ROOT / page).read_text().splitlines() if line.startswith("### ")]
        if anchor not in headings:
            problem("alerts.yml", f"{rule['alert']}: {page} has no heading for its runbook link")


def main():
    # A kind without a schema must be an error, not a warning.
    warnings.simplefilter("error")
    check_chart()
    check_overlays()
    check_kserve()
    check_compose_and_unit()
    check_gpu_image()
    check_docker_context()
    check_runbook()
    if problems:
        sys.exit("\n".join(problems))


main()
