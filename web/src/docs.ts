// The page at /docs: Swagger UI with this server's OpenAPI document.

interface SwaggerUIBundle {
  (options: Record<string, unknown>): unknown;
}

declare const SwaggerUIBundle: SwaggerUIBundle;

/** Hides the button and the padlocks for API keys. */
const withoutKeys = () => ({
  wrapComponents: { authorizeBtn: () => () => null, authorizeOperationBtn: () => () => null },
});

/** Whether the server requires an API key. If that is unknown, the page offers to enter one. */
async function asksForKeys(): Promise<boolean> {
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
  requestInterceptor: (request: { body?: unknown }) => {
    if (request.body instanceof FormData) {
      for (const [name, value] of [...request.body]) {
        if (value === "") {
          request.body.delete(name);
        }
      }
    }
    return request;
  },
}));

// Swagger UI has a dark theme, but ignores the system's preference.
const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", setTheme);
setTheme();
