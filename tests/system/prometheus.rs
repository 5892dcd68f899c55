//! A real Prometheus with the shipped rules scrapes a server under load, and every panel of the
//! dashboard shows data.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;

use crate::harness::{NARROW, Server, root, some_models, square, white_row};

/// Within this time Prometheus has scraped all the effects of the load.
const PATIENCE: Duration = Duration::from_secs(90);

fn shipped(path: &str) -> String {
    fs::read_to_string(root().join("deploy").join(path)).unwrap()
}

struct Prometheus {
    child: Child,
    url: String,
    client: Client,
}

impl Prometheus {
    /// Starts Prometheus with the files in `deploy/prometheus`; only addresses and intervals are
    /// replaced.
    fn start(directory: &Path, target: &str) -> Self {
        let mut config = shipped("prometheus/prometheus.yml");
        for (from, to) in [
            (
                r#"["classifyd-1:8081", "classifyd-2:8081"]"#.to_owned(),
                format!("[\"{target}\"]"),
            ),
            ("scrape_interval: 5s".to_owned(), "scrape_interval: 1s".to_owned()),
            ("scrape_timeout: 4s".to_owned(), "scrape_timeout: 1s".to_owned()),
            (
                "evaluation_interval: 15s".to_owned(),
                "evaluation_interval: 1s".to_owned(),
            ),
        ] {
            assert!(config.contains(&from), "{from} in prometheus.yml");
            config = config.replace(&from, &to);
        }
        fs::write(directory.join("prometheus.yml"), config).unwrap();
        for name in ["rules.yml", "alerts.yml"] {
            fs::write(directory.join(name), shipped(&format!("prometheus/{name}"))).unwrap();
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                directory.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .spawn()
            .expect("prometheus can be started: scripts/setup-system-tests.sh installs it");
        Self {
            child,
            url: format!("http://{address}"),
            client: Client::new(),
        }
    }

    /// The response of its HTTP API, or `None` while there is none.
    async fn send_request(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let request = self.client.get(format!("{}{path}", self.url)).query(query);
        let answer: Value = request.send().await.ok()?.json().await.ok()?;
        Some(answer)
    }

    /// Whether an expression currently has at least one value.
    async fn has_data(&self, expression: &str) -> bool {
        let Some(answer) = self.send_request("/api/v1/query", &[("query", expression)]).await else {
            return false;
        };
        assert_eq!(answer["status"], "success", "{expression}: {answer:#}");
        let series = answer["data"]["result"].as_array().unwrap();
        series.iter().any(|series| {
            let value = series["value"][1].as_str().unwrap();
            value.parse::<f64>().unwrap().is_finite()
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Valid requests, and every kind of failing one, repeatedly.
async fn load(server: &Server) {
    let good = async {
        loop {
            server.label("?model=linear", white_row(1)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let bad = async {
        loop {
            server.get("/nowhere").send().await.unwrap();
            let broken = server.send_png("?model=linear", b"no picture".to_vec());
            assert_eq!(broken.send().await.unwrap().status(), 422);
            let failing = server.send_png("?model=fails", square(255));
            assert_eq!(failing.send().await.unwrap().status(), 500);
            let late = server.send_png("?model=hang&timeout_ms=100", square(255));
            assert_eq!(late.send().await.unwrap().status(), 504);
            // This client disconnects.
            let gone = server.send_png("?model=hang", square(255));
            let _ = tokio::time::timeout(Duration::from_millis(100), gone.send()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let too_many = async {
        loop {
            let slow = (0..8).map(|_| server.send_png("?model=slow", square(255)).send());
            let answers = futures_util::future::join_all(slow).await;
            assert!(
                answers
                    .iter()
                    .any(|answer| answer.as_ref().unwrap().status() == 503)
            );
        }
    };
    tokio::join!(good, bad, too_many);
}

/// The expressions of all panels, with values for the variables.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array();
        targets.into_iter().flatten().map(|target| {
            let expression = target["expr"].as_str().unwrap();
            (panel["title"].as_str().unwrap().to_owned(), filled(expression))
        })
    });
    targets.collect()
}

fn filled(expression: &str) -> String {
    let filled = expression
        .replace("$job", "classifyd")
        .replace("$instance", ".*")
        .replace("$model", ".*")
        .replace("$__rate_interval", "15s");
    assert!(!filled.contains('$'), "a variable without a value: {filled}");
    filled
}

#[tokio::test]
#[ignore = "needs prometheus: make test-system"]
async fn every_panel_shows_data_and_every_rule_works() {
    let models = some_models(&["linear", "slow", "fails", "hang"]);
    let options = [&NARROW[..], &["--admin-listen", "127.0.0.1:0"]].concat();
    let server = Server::start(models.path(), &options);
    let directory = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(directory.path(), &server.admin_address.unwrap().to_string());
    let dashboard: Value = serde_json::from_str(&shipped("grafana/dashboards/classifyd.json")).unwrap();
    let queries = expressions(&dashboard);
    assert!(queries.len() > 30, "{}", queries.len());

    let check = async {
        let started = Instant::now();
        let mut missing = queries;
        while !missing.is_empty() {
            assert!(started.elapsed() < PATIENCE, "no data for {missing:#?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut still = Vec::new();
            for (title, expression) in missing {
                if !prometheus.has_data(&expression).await {
                    still.push((title, expression));
                }
            }
            missing = still;
        }
        check_variables(&prometheus, &dashboard).await;
        check_rules(&prometheus).await;
        // The panels show what happened.
        for expression in [
            r#"classifyd_rejected_total{model="slow",reason="queue_full"} > 0"#,
            r#"classifyd_rejected_total{model="hang",reason="deadline_exceeded"} > 0"#,
            r#"classifyd_runs_interrupted_total{model="hang"} > 0"#,
            r#"classifyd_inference_failures_total{model="fails"} > 0"#,
            r#"classifyd_http_requests_abandoned_total{route="/v1/classify"} > 0"#,
        ] {
            assert!(prometheus.has_data(expression).await, "{expression}");
        }
    };
    tokio::select! {
        () = check => {}
        () = load(&server) => {}
    }
}

async fn check_variables(prometheus: &Prometheus, dashboard: &Value) {
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let mut checked = 0;
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let definition = variable["definition"].as_str().unwrap();
        let arguments = definition
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap();
        let (series, label) = arguments.rsplit_once(", ").unwrap();
        let path = format!("/api/v1/label/{label}/values");
        let answer = prometheus
            .send_request(&path, &[("match[]", &filled(series))])
            .await
            .unwrap();
        assert!(
            !answer["data"].as_array().unwrap().is_empty(),
            "{definition}: {answer:#}"
        );
        checked += 1;
    }
    assert_eq!(checked, 3);
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        let expression = filled(annotation["expr"].as_str().unwrap());
        let answer = prometheus
            .send_request("/api/v1/query", &[("query", &expression)])
            .await
            .unwrap();
        assert_eq!(answer["status"], "success", "{answer:#}");
    }
}

async fn check_rules(prometheus: &Prometheus) {
    let started = Instant::now();
    let expected = [
        ("ClassifydRunsFail", "firing"),
        // The alert requires the condition to last.
        ("ClassifydOverloaded", "pending"),
        ("ClassifydDown", "inactive"),
        ("ClassifydNotReady", "inactive"),
    ];
    loop {
        let answer = prometheus.send_request("/api/v1/rules", &[]).await.unwrap();
        let groups = answer["data"]["groups"].as_array().unwrap();
        let rules: Vec<&Value> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap())
            .collect();
        assert!(rules.len() > 15, "{answer:#}");
        for rule in &rules {
            assert_eq!(rule["health"], "ok", "{rule:#}");
        }
        let is_in_state = |(name, state): &(&str, &str)| {
            rules
                .iter()
                .any(|rule| rule["name"] == *name && rule["state"] == *state)
        };
        if expected.iter().all(is_in_state) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "expected {expected:?}: {answer:#}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
#[ignore = "needs promtool: make test-system"]
async fn promtool_accepts_the_metrics_and_rules() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    server.label("", white_row(1)).await;
    let metrics = server.metrics().await.0;
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started: scripts/setup-system-tests.sh installs it");
    check.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");

    for arguments in [
        &["check", "rules", "rules.yml", "alerts.yml"][..],
        &["check", "config", "prometheus.yml"],
        &["test", "rules", "alerts_test.yml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(root().join("deploy/prometheus"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
    // Each alert has both kinds of test and a runbook.
    let (alerts, tests) = (
        shipped("prometheus/alerts.yml"),
        shipped("prometheus/alerts_test.yml"),
    );
    let docs = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 10);
    for name in names {
        for part in [format!("name: {name} fires"), format!("name: {name} is silent")] {
            assert!(tests.contains(&part), "{part}");
        }
        assert!(
            docs.contains(&format!("### {name}\n")),
            "{name} in docs/operations.md"
        );
    }
}
