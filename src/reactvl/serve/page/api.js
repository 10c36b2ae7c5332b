// The service's JSON under /api, one function an endpoint. Everything that goes wrong arrives as a `Fault`, whose
// message can be shown to a person as it is.

export class Fault extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const info = () => call("api/info");
export const search = (body, signal) => call("api/search", { body, signal });
export const count = (body, signal) => call("api/count", { body, signal });
export const pair = (part, row, signal) => call(`api/pairs/${part}/${row}`, { signal });
export const classPairs = (id, offset, limit, signal) =>
  call(`api/classes/${id}/pairs?offset=${offset}&limit=${limit}`, { signal });
export const review = () => call("api/review");
export const saveReview = (body) => call("api/review", { body, method: "PUT" });

export const thumbnailAt = (part, row, side) => `api/pairs/${part}/${row}/thumbnail?side=${side}`;
export const pictureAt = (part, row) => `api/pairs/${part}/${row}/image`;

async function call(path, { body, signal, method } = {}) {
  const options = { signal, method: method ?? (body ? "POST" : "GET") };
  if (body) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Fault("The server does not answer. Is `reactvl serve` still running?");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  throw new Fault(await reason(response), response.status);
}

// FastAPI's own refusals carry a list of places and messages, ours one sentence.
async function reason(response) {
  let detail = null;
  try {
    detail = (await response.json()).detail;
  } catch {
    // a proxy's page, or nothing: the status has to do
  }
  if (Array.isArray(detail)) {
    detail = detail.map((one) => [one.loc?.slice(1).join("."), one.msg].filter(Boolean).join(": ")).join("; ");
  }
  const busy = response.headers.get("Retry-After");
  const wait = response.status === 503 && busy ? ` Try again in ${busy} s.` : "";
  return `${detail || `The server answers ${response.status} ${response.statusText}.`}${wait}`;
}
