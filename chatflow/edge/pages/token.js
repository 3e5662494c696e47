// The token of this tab, if the server asks for one: given by hand, brought by a link, or fetched from whoever logs users
// in. It is never part of an address: what stands before a server may log those.

const KEY = "chatflow.token";
export const TOKEN_PATTERN = "\\s*[A-Za-z0-9_.~+\\-]+\\s*"; // others can be in no name of a subprotocol

/** Where tokens come from, by --page-token-url; empty if they are given to this page. */
export const TOKEN_URL = document.querySelector('meta[name="token-url"]').content;

export let token = null;

/** Of this tab: another one may be somebody else's. */
export function keepToken(value) {
  token = value || null;
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {}
}

/** From the fragment, `#token=…` or `#ROOM&token=…`, which no browser sends, and which leaves the history here. */
export function takeToken() {
  try {
    token = sessionStorage.getItem(KEY);
  } catch {}
  const [, before, given] = /^#(.*?)&?token=([^&]*)/.exec(location.hash) ?? [];
  if (given === undefined) return;
  if (isToken(given)) keepToken(given);
  history.replaceState(null, "", before ? `#${before}` : location.pathname + location.search);
}

/** A new one from TOKEN_URL, which knows who it is by its cookies. Rejects with what to tell the user. */
export async function fetchToken() {
  const address = new URL(TOKEN_URL, location.href);
  let answer;
  try {
    answer = await fetch(address, { credentials: "include", cache: "no-store", headers: { Accept: "application/json" } });
  } catch {
    throw new Error(`${address.host} cannot be reached for a token.`);
  }
  if ([401, 403].includes(answer.status)) throw new Error(`You are not logged in at ${address.host}: log in there first.`);
  const given = answer.ok ? (await answer.json().catch(() => null))?.token : undefined;
  if (!isToken(given) || claims(given).sub === undefined) {
    throw new Error(`${address.host} has no token for you (HTTP ${answer.status}): tell whoever runs this server.`);
  }
  keepToken(given);
  return given;
}

/** Whom a token names; whether it is good is the server's to say. */
export function claims(of = token) {
  try {
    const payload = atob(of.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    const { sub, name } = JSON.parse(payload); // both are ASCII, or the server takes neither
    return { sub, name };
  } catch {
    return {};
  }
}

/** Fetch from the API, as whom the token names. */
export function ask(path) {
  return fetch(path, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
}

function isToken(value) {
  return typeof value === "string" && new RegExp(`^${TOKEN_PATTERN}$`).test(value);
}
