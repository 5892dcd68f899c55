// The page at /docs: Swagger UI on the document of this server.

interface SwaggerUIBundle {
  (options: Record<string, unknown>): unknown;
}

declare const SwaggerUIBundle: SwaggerUIBundle;

/** Without the button and the padlocks for keys. */
const withoutKeys = () => ({
  wrapComponents: { authorizeBtn: () => () => null, authorizeOperationBtn: () => () => null },
});

/** Whether the server asks for a key; if it cannot be found out, the page is ready for one. */
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
  // The schemas stand with the operations that use them; as a list of their own they are closed at first.
  defaultModelsExpandDepth: 0,
  // Would be asked for at another host.
  validatorUrl: null,
  // A field of a form that was left empty is not meant to be sent.
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

// Swagger UI has a dark theme, but does not ask the system for it.
const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", setTheme);
setTheme();
