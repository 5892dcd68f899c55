// The curl command for the request that the page has just sent.

export interface CurlRequest {
  url: string;
  contentType: string;
  /** A text for the command itself, or the name of a file. */
  body: { text: string } | { file: string };
  withKey: boolean;
}

/** Quotes a text for a POSIX shell. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

export function curl(request: CurlRequest): string {
  const options = [`-H ${quote(`Content-Type: ${request.contentType}`)}`];
  if (request.withKey) {
    options.push(`-H "Authorization: Bearer $CLASSIFYD_API_KEY"`);
  }
  // --data-raw, because --data would read a file if the text begins with @.
  options.push("text" in request.body ? `--data-raw ${quote(request.body.text)}` : `--data-binary ${quote(`@${request.body.file}`)}`);
  return `curl ${[quote(request.url), ...options].join(" \\\n  ")}`;
}
