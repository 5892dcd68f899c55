// src/docs.ts
var withoutKeys = () => ({
  wrapComponents: { authorizeBtn: () => () => null, authorizeOperationBtn: () => () => null }
});
async function asksForKeys() {
  try {
    return !(await fetch("v1/models")).ok;
  } catch {
    return true;
  }
}
void asksForKeys().then((keys) => SwaggerUIBundle({
  plugins: keys ? [] : [withoutKeys],
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // Operations show their schemas; the separate list of schemas is collapsed.
  defaultModelsExpandDepth: 0,
  // The validator would be a request to another host.
  validatorUrl: null,
  // Empty form fields are not sent.
  requestInterceptor: (request) => {
    if (request.body instanceof FormData) {
      for (const [name, value] of [...request.body]) {
        if (value === "") {
          request.body.delete(name);
        }
      }
    }
    return request;
  }
}));
var dark = matchMedia("(prefers-color-scheme: dark)");
var setTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", setTheme);
setTheme();
