// Asking the service. Reads need nothing; what changes something carries the token, if one is asked for.

const TOKEN = "truetape-token";
export const SILENT = "The service does not answer, so nothing was asked for; try again when it does.";

export async function get(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok && body.error && !("isHealthy" in body)) throw new Error(body.error);
  return body;
}

export async function post(path, body = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) })
      .catch(() => { throw new Error(SILENT); });
    const said = await answer.json();
    if (answer.status !== 401) {
      if (!answer.ok) throw new Error(said.error || `The service answered ${answer.status}.`);
      return said;
    }
    const given = await askForToken(token ? "This token was refused." : "");
    if (given === null) throw new Error("Nothing was done: no token was given.");
    sessionStorage.setItem(TOKEN, given);
  }
}

function askForToken(fault) {
  const dialog = document.getElementById("token");
  const value = document.getElementById("token-value");
  document.getElementById("token-fault").textContent = fault;
  value.value = "";
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" && value.value ? value.value : null), { once: true });
    dialog.returnValue = "cancel";
    dialog.showModal();
    value.focus();
  });
}
