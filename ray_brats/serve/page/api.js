// The HTTP interface, and its refusals as sentences.

export class Refused extends Error {
  constructor(message, { status = 0, file = "" } = {}) {
    super(message);
    this.status = status;
    this.file = file;
  }
}

export class NeedsKey extends Refused {}

export class Cancelled extends Error {}

const POLL_MS = { first: 250, most: 2000, factor: 1.3 };
const MOST_FAILURES = 5;

export class Api {
  key = "";

  get headers() {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }

  async models() {
    return whole((await this.ask("v1/models")).json());
  }

  async phantom() {
    return whole((await this.ask("v1/phantom")).blob());
  }

  // Fetches what must succeed; throws Refused.
  async ask(path, { accept, ...options } = {}) {
    const headers = accept ? { ...this.headers, Accept: accept } : this.headers;
    const asked = { ...options, headers, cache: "no-store" };
    const answer = await whole(fetch(path, asked));
    if (!answer.ok) {
      throw refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
    }
    return answer;
  }

  // Posts a case; `sent` is told the share that has gone out. Returns the job's id.
  start(files, model, options) {
    const body = new FormData();
    for (const [modality, file] of Object.entries(files)) body.append(modality, file, file.name);
    return this.#post(model ? `?model=${encodeURIComponent(model)}` : "", body, options);
  }

  // Posts a raw study, as a Blob of the type of zip archives; as `start` in all else.
  startRaw(archive, model, options) {
    const chosen = model ? `&model=${encodeURIComponent(model)}` : "";
    return this.#post(`?raw=true${chosen}`, archive, options);
  }

  #post(query, body, { sent, signal }) {
    return new Promise((resolve, reject) => {
      // Only XMLHttpRequest tells how much of a body has gone out.
      const request = new XMLHttpRequest();
      request.open("POST", `v1/jobs${query}`);
      for (const [name, value] of Object.entries(this.headers)) {
        request.setRequestHeader(name, value);
      }
      request.upload.onprogress = (event) => {
        if (event.lengthComputable) sent(event.loaded / event.total);
      };
      request.onload = () => {
        const { status, responseText: text } = request;
        const id = status >= 200 && status < 300 ? json(text).id : undefined;
        if (id !== undefined) resolve(String(id));
        else reject(refusal(status, text, request.getResponseHeader("Retry-After")));
      };
      request.onerror = () =>
        reject(new Refused("The upload was cut off: the server or the network went away."));
      request.onabort = () => reject(new Cancelled());
      signal.addEventListener("abort", () => request.abort());
      if (signal.aborted) reject(new Cancelled());
      else request.send(body);
    });
  }

  // Follows a job to its end; `told` gets each state. A server that is away for a moment is
  // asked again: jobs outlive it.
  async follow(id, { told, signal }) {
    const path = `v1/jobs/${encodeURIComponent(id)}`;
    let failures = 0;
    for (let wait = POLL_MS.first; ; wait = Math.min(POLL_MS.most, wait * POLL_MS.factor)) {
      let job = null;
      try {
        job = await whole((await this.ask(path, { signal })).json());
        failures = 0;
      } catch (error) {
        const passing = error instanceof Refused && (error.status === 0 || error.status >= 429);
        failures += 1;
        if (!passing || failures > MOST_FAILURES) throw error;
      }
      if (job) {
        told(job);
        if (job.state === "done") return job;
        if (job.state === "cancelled") throw new Cancelled();
        if (job.state === "failed") {
          throw new Refused(job.error || "The job failed.");
        }
      }
      await pause(wait, signal);
    }
  }

  // accept: the type of the answer, where it shall not be the mask alone.
  async mask(id, signal, accept) {
    const answer = await this.ask(`v1/jobs/${encodeURIComponent(id)}/mask`, { signal, accept });
    const ml = {};
    for (const [name, value] of answer.headers) {
      const region = name.match(/^x-ray-brats-(.+)-ml$/i);
      if (region) ml[region[1].toUpperCase()] = Number(value);
    }
    return {
      blob: await whole(answer.blob()),
      task: answer.headers.get("X-Ray-Brats-Task"),
      model: answer.headers.get("X-Ray-Brats-Model"),
      home: answer.headers.get("X-Ray-Brats-Home"),
      remarks: answer.headers.get("X-Ray-Brats-Remarks")?.split("; ") || [],
      ml,
    };
  }

  cancel(id) {
    return this.ask(`v1/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
  }
}

// An answer or its body, where it comes whole.
async function whole(coming) {
  try {
    return await coming;
  } catch (error) {
    if (error.name === "AbortError") throw new Cancelled();
    throw new Refused("The server did not answer. Is it running, and is the network up?");
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new Cancelled());
    }, { once: true });
  });
}

function json(text) {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {};
  }
}

function refusal(status, text, retryAfter) {
  const { error, detail, file } = json(text);
  const said = [error, detail].find((part) => typeof part === "string");
  if (status === 401) {
    return new NeedsKey(said || "The server asks for an API key.", { status });
  }
  let message = said || `The server answered ${status} without saying why.`;
  if (status === 429) {
    message = said || "The server is busy.";
    const seconds = Number(retryAfter);
    if (!/[.!?]$/.test(message)) message += ".";
    message += seconds > 0 ? ` Try again in ${seconds} s.` : " Try again later.";
  }
  return new Refused(message, { status, file: typeof file === "string" ? file : "" });
}
