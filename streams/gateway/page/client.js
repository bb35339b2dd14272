// Speaks to the gateway: JSON requests with the token, and the stream of a user's lists. Shows nothing but the question for the token.

const TOKEN = "headwater-token";

export class Problem extends Error {
  constructor(status, problem) {
    super([problem.detail, problem.remedy].filter(Boolean).join(": "));
    this.status = status;
  }
}

async function send(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(path, { ...options, headers });
    if (answer.status !== 401) return answer;
    await token_asked(token);
  }
}

let asking = null; // one question, however many requests wait for it

function token_asked(tried) {
  if (tried !== sessionStorage.getItem(TOKEN)) return Promise.resolve(); // answered meanwhile
  asking ??= new Promise((done) => {
    const dialog = document.getElementById("ask"), field = document.getElementById("token");
    document.getElementById("ask-wrong").hidden = !tried;
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(TOKEN, field.value);
      field.value = "";
      asking = null;
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export async function get(path) {
  return read(await send(path));
}

export async function post(path, body) {
  return read(await send(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
}

async function read(answer) {
  const body = await answer.json();
  if (!answer.ok) throw new Problem(answer.status, body);
  return body;
}

// Calls `told` with each event {event, data} of a user's stream, until `signal` says stop. Not EventSource: that sends no token.
export async function stream(user, signal, told, connected) {
  let last = null;
  for (let wait = 500; !signal.aborted; wait = Math.min(wait * 2, 8000)) {
    try {
      const answer = await send(`/v1/users/${encodeURIComponent(user)}/stream`, { signal, headers: last ? { "Last-Event-ID": last } : {} });
      if (!answer.ok) await read(answer);
      connected(true);
      wait = 500;
      const text = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { value, done } = await text.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const fields = Object.fromEntries(part.split("\n").filter((line) => !line.startsWith(":")).map((line) => line.split(/: (.*)/s)));
          if (fields.id) last = fields.id;
          if (fields.data) told(fields.event, JSON.parse(fields.data));
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      console.warn(error);
    }
    connected(false);
    await new Promise((done) => setTimeout(done, wait));
  }
}
