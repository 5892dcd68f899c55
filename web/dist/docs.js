// src/docs.ts
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // Would be asked for at another host.
  validatorUrl: null
});
var dark = matchMedia("(prefers-color-scheme: dark)");
var setTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", setTheme);
setTheme();
