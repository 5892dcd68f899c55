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
  // The schemas stand with the operations that use them; as a list of their own they are closed at first.
  defaultModelsExpandDepth: 0,
  // Would be asked for at another host.
  validatorUrl: null,
  // A field of a form that was left empty is not meant to be sent.
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
