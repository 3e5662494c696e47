// The page at /: a room to chat in. All that comes from others is shown as text, never as HTML.

import { ChatFlow, LIMITS, countCharacters } from "/chatflow.js";
import { TOKEN_PATTERN, TOKEN_URL, ask, claims, fetchToken, keepToken, takeToken, token } from "/token.js";

const PAGE_SIZE = 50; // messages asked for at a time
const MOST_SHOWN = 1_000; // older ones leave the page, and come back by scrolling
const NEAR_PX = 120;
const FEW_LEFT = 50; // characters: from then on it is shown how many

const byId = (id) => document.getElementById(id);
const scroller = byId("scroller");
const messages = byId("messages");
const pending = byId("pending");

let chat = null; // the ChatFlow of the room that is shown
let me = null;
let room = null;
let mine = new Map(); // messageId → item: acknowledged, and not yet seen in the room
let loading = false;
let noneBefore = null; // seq before which nothing is held
let atEnd = true;

// Who and where

/** An id for a name, from 1 to the largest: the same on every device. FNV-1a. */
function userIdOf(name) {
  let hash = 0x811c9dc5;
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193);
  return 1 + ((hash >>> 0) % LIMITS.userId);
}

/** Storage may be forbidden, which must not keep anybody from chatting. */
function remember(name, value) {
  try {
    localStorage.setItem(`chatflow.${name}`, value);
  } catch {}
}

function remembered(name) {
  try {
    return localStorage.getItem(`chatflow.${name}`);
  } catch {
    return null;
  }
}

// Another token in the place of the one that expires: what is under way, and what is typed, stays.

let spent = null; // a token that is good no more
let goOn = null; // who waits for another one
let unused = null; // what was fetched before there was a connection

const isSpent = () => token !== null && token === spent;
/** For a connection; and asked for again while that is open, when the token is about to expire. */
async function nextToken() {
  const held = unused;
  unused = null;
  if (held) return held;
  try {
    const value = await fetchToken();
    if (Number(claims(value).sub) !== me.userId) throw new Error("You are logged in as somebody else now: join as such.");
    byId("renew").hidden = true;
    return value;
  } catch (error) {
    askForToken(error.message);
    throw error; // what is tried again later
  }
}

/** The same, of one that is given by hand. */
function currentToken() {
  const isOpen = chat?.status.state === "open";
  if (isOpen) spent = token;
  if (!isSpent()) return token;
  askForToken(isOpen ? "Your token expires." : "Your token has expired.");
  return new Promise((resolve) => (goOn = resolve));
}

function askForToken(why) {
  spent = token;
  byId("renew").hidden = false; // without the focus: somebody is writing
  byId("renew-why").textContent = why;
}

function renew(value) {
  if (TOKEN_URL) return chat.connectNow();
  const { sub } = claims(value);
  if (sub !== undefined && Number(sub) !== me.userId) {
    byId("renew-why").textContent = "This is the token of somebody else, who has to join as such.";
    return;
  }
  keepToken(value);
  byId("renew").hidden = true;
  byId("new-token").value = "";
  goOn?.(value);
  goOn = null;
  chat.connectNow();
  byId("text").focus();
}

function showJoin() {
  leave();
  byId("join").hidden = false;
  byId("name").focus();
}

function leave() {
  chat?.close();
  chat = spent = goOn = null;
  byId("chat").hidden = byId("elsewhere").hidden = byId("renew").hidden = true;
  showStatus({ state: "closed" });
}

function join() {
  if (byId("token").value.trim()) keepToken(byId("token").value.trim());
  byId("token").value = "";
  const { sub, name = byId("name").value } = claims();
  me = { userId: Number(sub ?? userIdOf(name)), username: name };
  room = Number(byId("room").value);
  remember("name", name);
  remember("room", room);
  history.replaceState(null, "", `#${room}`); // a tab keeps its room over a reload
  mine = new Map();
  for (const list of [messages, pending, byId("users")]) list.replaceChildren();
  for (const id of ["join", "earlier", "beginning", "people", "newest"]) byId(id).hidden = true;
  byId("chat").hidden = byId("elsewhere").hidden = false;
  byId("where").textContent = `Room ${room} · ${name}`;
  document.title = `Room ${room} – ChatFlow`;
  atEnd = true;
  noneBefore = null;
  chat?.close();
  wasOpen = false;
  const tokens = TOKEN_URL ? nextToken : token ? currentToken : undefined;
  chat = new ChatFlow({ room, user: me, token: tokens, last: PAGE_SIZE, presence: true });
  chat.on("message", showMessage);
  chat.on("status", showStatus);
  chat.on("presence", showPresence);
  chat.on("reset", showReset);
  chat.on("error", ({ field, message }) => field === "token" && askForToken(message));
  showStatus(chat.status);
  byId("text").focus();
}

// The connection

let countdown;
let explained = false;
let wasOpen = false; // since the room was joined

function showStatus({ state, retryAt, reason }) {
  clearInterval(countdown);
  wasOpen ||= state === "open";
  byId("state").dataset.state = state;
  byId("now").hidden = state !== "waiting" && state !== "offline";
  const texts = { open: "connected", connecting: "connecting", waiting: "reconnecting", offline: "offline" };
  byId("state-text").textContent = texts[state] ?? reason ?? "not connected";
  byId("countdown").textContent = "";
  if (state === "waiting") {
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
      byId("countdown").textContent = ` in ${seconds} s`;
    };
    tick();
    countdown = setInterval(tick, 250);
    if ((chat?.seq === null || token) && !explained && !isSpent()) explainFailure();
  }
}

/** A browser does not say why a WebSocket was refused; the same address and the API tell a plain request. */
async function explainFailure() {
  explained = true;
  const asked = chat;
  try {
    for (const path of [`/chat/${room}`, `/api/rooms/${room}/presence`]) {
      const answer = await ask(path);
      if (![401, 403, 404].includes(answer.status)) continue;
      const { errorMessage } = await answer.json();
      if (asked !== chat) return;
      if (answer.status === 401 && token && wasOpen) askForToken(errorMessage);
      else showRefusal(answer.status, errorMessage);
      return;
    }
  } catch {
    // No server, or not ours: the state says that there is no connection.
  } finally {
    explained = false;
  }
}

/** Whether there is a token now, if tokens are fetched; else it is shown why not. */
async function hasToken() {
  try {
    if (TOKEN_URL) unused = await fetchToken();
    return true;
  } catch (error) {
    showRefusal(401, error.message);
    return false;
  }
}

function showRefusal(status, reason) {
  showJoin();
  byId("join-error").textContent = status === 401 && !token && !TOKEN_URL ? "This server asks for a token." : reason;
  byId("join-error").hidden = false;
  if (status === 401) keepToken(null);
  // Who has one that is good, but not for this room, may have another.
  byId("token-field").hidden = byId("token-rule").hidden = Boolean(TOKEN_URL) || (status !== 401 && !token);
  if (status === 401) byId("token").focus();
}

function showPresence({ members, users, truncated }) {
  byId("people").hidden = false;
  byId("members").textContent = members;
  const items = users.map(({ username, userId, connections }) => {
    const item = element("li", { className: isMe({ userId, username }) ? "me" : "" }, avatar(username), username);
    if (connections > 1) item.append(element("span", { className: "hint" }, `×${connections}`));
    return item;
  });
  byId("users").replaceChildren(...items);
  const unnamed = members - users.reduce((sum, { connections }) => sum + connections, 0);
  byId("more").hidden = unnamed <= 0;
  byId("more").textContent = truncated ? `and ${unnamed} more` : `and ${unnamed} without a name`;
}

// Messages

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function avatar(username) {
  const node = element("span", { className: "avatar", ariaHidden: "true" }, username[0].toUpperCase());
  node.style.setProperty("--hue", userIdOf(username) % 360);
  return node;
}

function isMe({ userId, username }) {
  return Number(userId) === me.userId && username === me.username;
}

// Made once: to make them costs more than all else that is done for a message.
const HOUR = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const DAY_AND_HOUR = new Intl.DateTimeFormat([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const IN_FULL = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium" });

function time(timestamp) {
  const when = new Date(timestamp);
  const isToday = when.toDateString() === new Date().toDateString();
  const text = (isToday ? HOUR : DAY_AND_HOUR).format(when);
  return element("time", { dateTime: timestamp, title: IN_FULL.format(when) }, text);
}

function item(frame, state) {
  const note = { JOIN: "joined", LEAVE: "left" }[frame.messageType];
  const node = element("li");
  node.dataset.user = note ? "" : `${frame.userId} ${frame.username}`;
  if (note) {
    node.className = "note";
    node.append(element("p", { className: "text" }, `${frame.username} ${note}`), time(frame.timestamp));
    return node;
  }
  if (isMe(frame)) node.className = "own";
  const head = element("p", { className: "head" }, element("b", {}, frame.username));
  const foot = element("span", { className: "foot" }, time(frame.timestamp));
  if (isMe(frame)) foot.append(" ", element("span", { className: "state" }, state));
  node.append(avatar(frame.username), head, element("p", { className: "text" }, frame.message), foot);
  return node;
}

/** One author in a row is named once. */
function group(node) {
  const before = node?.previousElementSibling;
  node?.classList.toggle("more", Boolean(node.dataset.user) && before?.dataset.user === node.dataset.user);
}

function stored(frame) {
  const node = item(frame, "stored");
  node.dataset.seq = frame.seq;
  node.id = `m${frame.seq}`;
  return node;
}

function showMessage(frame) {
  mine.get(frame.messageId)?.remove();
  mine.delete(frame.messageId);
  // Ours may come back before its acknowledgement tells the id: nobody shall see it twice, not for a moment.
  const [oldest] = pending.children;
  if (oldest?.matches(".sending") && isMe(frame) && oldest.querySelector(".text").textContent === frame.message) {
    oldest.remove();
  }
  const node = stored(frame);
  node.dataset.id = frame.messageId;
  messages.append(node);
  group(node);
  group(pending.firstElementChild);
  byId("newest").hidden = atEnd;
  // Who reads back keeps what is there for long, but not for ever.
  const most = atEnd ? MOST_SHOWN : 5 * MOST_SHOWN;
  while (messages.childElementCount > most) messages.firstElementChild.remove();
  arranged();
}

function showReset({ reason }) {
  if (reason === "beyond_head") messages.replaceChildren();
  const texts = { beyond_head: "This room began anew.", restored: "This room was set back to an earlier state." };
  const text = texts[reason] ?? "Older messages are no longer kept.";
  messages.append(element("li", { className: "note" }, element("p", { className: "text" }, text)));
  arranged();
}

async function say(text) {
  const asked = chat;
  const node = item({ ...me, message: text, timestamp: new Date().toISOString() }, "sending");
  node.classList.add("sending");
  pending.append(node);
  group(node);
  atEnd = true;
  arranged();
  const state = node.querySelector(".state");
  try {
    const { messageId } = await asked.send(text);
    node.classList.remove("sending");
    state.textContent = "stored";
    if (messages.querySelector(`[data-id="${CSS.escape(messageId)}"]`)) {
      node.remove();
    } else {
      mine.set(messageId, node);
      if (!node.isConnected) pending.append(node); // what came back was the same text from another window
    }
  } catch (error) {
    node.classList.replace("sending", "failed");
    state.textContent = `not sent: ${error.message}`;
  }
}

// Writing

/** Parts of a text that a person takes for one character: a family of emoji or a letter with its accent. */
function graphemes(text) {
  if (!Intl.Segmenter) return [...text];
  return Array.from(new Intl.Segmenter().segment(text), ({ segment }) => segment);
}

/** What is too much is taken from where it was put in, as `maxlength` would; and it is said. */
function fit() {
  const box = byId("text");
  let over = countCharacters(box.value) - LIMITS.messageCharacters;
  if (over <= 0) {
    showRoomLeft();
    return;
  }
  const behind = box.value.slice(box.selectionEnd);
  const before = graphemes(box.value.slice(0, box.selectionEnd));
  const cut = [];
  for (; over > 0 && before.length; over -= countCharacters(cut[0])) cut.unshift(before.pop());
  box.value = before.join("") + behind;
  box.selectionStart = box.selectionEnd = box.value.length - behind.length;
  showRoomLeft(cut.join(""));
}

function showRoomLeft(cut = "") {
  const left = LIMITS.messageCharacters - countCharacters(byId("text").value);
  const [first, more] = [graphemes(cut).slice(0, 20).join(""), countCharacters(cut)];
  byId("room-left").hidden = left > FEW_LEFT && !cut;
  byId("room-left").classList.toggle("error", Boolean(cut));
  byId("room-left").textContent = cut
    ? `A message has at most ${LIMITS.messageCharacters} characters: ${more} cut, from “${first}”` +
      (first === cut ? "" : "…")
    : `${left} ${left === 1 ? "character" : "characters"} left`;
}

// Scrolling

let arranging = 0;

/** The list grew: keep its end in sight, and learn whether older messages can be asked for. Once for many messages. */
function arranged() {
  arranging ||= requestAnimationFrame(() => {
    arranging = 0;
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
    const oldest = oldestSeq();
    byId("beginning").hidden = oldest !== 1;
    byId("earlier").hidden = oldest === null || oldest === 1 || oldest === noneBefore;
  });
}

function oldestSeq() {
  const node = messages.querySelector("[data-seq]");
  return node ? Number(node.dataset.seq) : null;
}

async function loadEarlier() {
  const before = oldestSeq();
  if (loading || before === null || before === 1) return;
  loading = true;
  const asked = chat;
  try {
    const answer = await ask(`/api/rooms/${room}/messages?before=${before}&limit=${PAGE_SIZE}`);
    if (!answer.ok || asked !== chat) return;
    const { messages: page } = await answer.json();
    // Trimmed or reset meanwhile: what came belongs elsewhere.
    if (asked !== chat || oldestSeq() !== before) return;
    if (page.length) prepend(page.sort((a, b) => a.seq - b.seq));
    else noneBefore = before;
    arranged();
  } catch {
    // Without a network; the button is still there.
  } finally {
    loading = false;
  }
}

function prepend(page) {
  const fromEnd = scroller.scrollHeight - scroller.scrollTop;
  messages.ariaLive = "off"; // what is old is not news
  const first = messages.querySelector("[data-seq]");
  const nodes = page.map(stored);
  messages.prepend(...nodes);
  for (const node of [...nodes, first]) group(node);
  atEnd = false;
  scroller.scrollTop = scroller.scrollHeight - fromEnd;
  requestAnimationFrame(() => (messages.ariaLive = "polite"));
}

let lastTop = 0;

scroller.addEventListener("scroll", () => {
  // Messages that came since make the end seem far: only who moves up leaves it.
  if (scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_PX) atEnd = true;
  else if (scroller.scrollTop < lastTop) atEnd = false;
  lastTop = scroller.scrollTop;
  if (atEnd) byId("newest").hidden = true;
  if (scroller.scrollTop < NEAR_PX && !byId("earlier").hidden && !atEnd) loadEarlier();
});
new ResizeObserver(arranged).observe(scroller);

// What people do

byId("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("join-error").hidden = true;
  if (await hasToken()) join();
});
byId("renew").addEventListener("submit", (event) => {
  event.preventDefault();
  renew(byId("new-token").value.trim());
});
addEventListener("hashchange", () => {
  const before = token;
  takeToken(); // whoever logs users in may open a link with a new one here
  if (chat && token !== before) renew(token);
});
byId("elsewhere").addEventListener("click", showJoin);
byId("now").addEventListener("click", () => chat?.connectNow());
byId("earlier").addEventListener("click", loadEarlier);
byId("newest").addEventListener("click", () => {
  atEnd = true;
  arranged();
});
byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (text) say(text);
  byId("text").value = "";
  showRoomLeft();
  byId("text").focus();
});
byId("text").addEventListener("input", (event) => {
  if (!event.isComposing) fit();
});
byId("text").addEventListener("compositionend", fit);
byId("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("say").requestSubmit();
});

const wide = matchMedia("(min-width: 48rem)");
const openPeople = () => (byId("people").open = wide.matches);
wide.addEventListener("change", openPeople);
openPeople();

const [fewest, most] = LIMITS.usernameCharacters;
byId("name").pattern = LIMITS.usernamePattern;
byId("name").maxLength = most;
byId("token").pattern = byId("new-token").pattern = TOKEN_PATTERN;
byId("name-rule").textContent = `${fewest} to ${most} letters and digits`;
byId("new-token").disabled = byId("new-token-field").hidden = Boolean(TOKEN_URL);
takeToken();
const mayJoin = await hasToken();
byId("name").value = claims().name ?? remembered("name") ?? "";
byId("room").value = /^#[1-9]\d{0,8}$/.test(location.hash) ? location.hash.slice(1) : (remembered("room") ?? "1");
if (mayJoin && byId("name").value && byId("join").checkValidity()) join();
else showJoin();
