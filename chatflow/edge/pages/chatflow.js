/**
 * A ChatFlow client for browsers: one file, no dependencies.
 *
 *     import { ChatFlow } from "/chatflow.js";
 *
 *     const chat = new ChatFlow({ room: 3, user: { userId: 7, username: "alice" }, last: 50, presence: true });
 *     chat.on("message", ({ seq, username, message }) => console.log(seq, username, message));
 *     chat.on("status", ({ state }) => console.log(state));
 *     const { messageId } = await chat.send("Hello");
 *     chat.close();
 *
 * It connects at once, again whenever the connection ends, and goes on where it was: messages come in the order of
 * `seq`, each once. What was sent and not acknowledged is sent again under the same `clientMessageId`, which the server
 * stores once. It speaks `chatflow.v2` (docs/protocol.rst); a connection that comes after three failed handshakes in a row
 * may be without it: then there is no presence, and only a missing answer or the browser tells that it is dead.
 *
 * Events, with what `event.detail`, or the argument of a function given to `on`, holds:
 *
 *     message   {messageId, roomId, seq, userId, username, message, timestamp, messageType, serverId}
 *     ack       {clientMessageId, messageId, timestamp}       a message of ours is durable
 *     error     {code, message, field, clientMessageId, retrying}
 *               the server refused something; clientMessageId if it was a message of ours, retrying if it is sent again
 *     status    {state, retryAt, reason}    state: "connecting", "open", "waiting", "offline" or "closed" (by `close`, or
 *               because the user or the address is banned: then with a reason);
 *               retryAt: when the next attempt is, in milliseconds since 1970, or null
 *     identity  {userId, username}    who the server says this is, by the token
 *     presence  {members, users: [{userId, username, connections}], truncated}    members: connections, named or not
 *     reset     {reason, from}    messages are missing here, or what was seen is not this room's;
 *               reason: "expired" (retention dropped them), "beyond_head" (the room never had so many), "restored"
 *               (the room was set back to an earlier state) or "gap";
 *               from: the seq that comes next, or null where the server does not say
 */

const SUBPROTOCOL = "chatflow.v2";
const TOKEN_SUBPROTOCOL = "chatflow.jwt."; // a script cannot set a header of a WebSocket
const TRY_AGAIN_LATER = 1013; // close code: we read too slowly
const DISCONNECTED = 4000; // close code: by an operator; not to come back at once
const BANNED = 4403; // close code: not to come back at all

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;
const STABLE_MS = 10_000; // a connection that lived so long was a good one: backoff starts anew
const HANDSHAKE_MS = 10_000; // browsers wait for minutes
const PLAIN_AFTER = 3; // failed handshakes in a row
const ANSWER_MS = 30_000; // without heartbeats: an answer that takes longer will not come
const BEHIND_MS = 5_000; // how long the head may be ahead of what arrived
const WATCH_MS = 1_000;

const MAX_QUEUED = 1_000;

/**
 * What a message may be, as the server has it (docs/protocol.rst). Characters are code points, not the UTF-16 units that
 * `length` counts: use `countCharacters`.
 */
export const LIMITS = Object.freeze({
  messageCharacters: 500,
  usernamePattern: "[A-Za-z0-9]{3,20}",
  usernameCharacters: Object.freeze([3, 20]),
  userId: 100_000,
  clientMessageIdCharacters: 64,
});

/** How long the server finds a text. */
export function countCharacters(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** The server could take it another time. */
const TRANSIENT = new Set(["overloaded", "rate_limited", "unavailable", "draining"]);
/** Answers to the address, not to a message. */
const RESETS = { since_expired: "expired", since_beyond_head: "beyond_head" };

/** Why a message was not sent: `code` is one of the protocol's ("banned" among them), or "closed", "queue_full". */
export class ChatFlowError extends Error {
  constructor(code, message, field) {
    super(message);
    this.name = "ChatFlowError";
    this.code = code;
    this.field = field;
  }
}

export class ChatFlow extends EventTarget {
  #address;
  #user;
  #token;
  #asked = 0; // how often a token was asked for: an answer that comes late is not for the connection of now
  #WebSocket;
  #last;
  #status = { state: "connecting", retryAt: null, reason: null };

  #socket = null;
  #openedAt = null; // null while the handshake lasts
  #startedAt = 0;
  #lastFrameAt = 0;
  #heartbeatMs = null;
  #watch;

  #attempt = 0;
  #retryTimer;
  #retryAfterMs = null; // the server's wish
  #plain = false; // whether this attempt does not offer the subprotocol
  #failedOffers = 0; // handshakes that offered it, since one that succeeded

  #seq = null; // of the last message that was given out
  #anySeqNext = false;
  #gapAt = null;
  #head = 0;
  #behindSince = null;
  #stalls = 0;

  #outbox = []; // {clientMessageId, frame, sentAt, resolve, reject}; only the first is ever under way
  #resendTimer;
  #resends = 0;

  /**
   * @param {object} options
   * @param {string} [options.url]  of the server: `https://chat.example`, `ws://…`; without it the page's own
   * @param {number|string} options.room
   * @param {{userId: number|string, username: string}} [options.user]  who sends, and who is there
   * @param {string|function(): (string|Promise<string>)} [options.token]  what a server with `--auth jwt` asks for, or
   *     what fetches one: asked for each connection, and again before the token expires. It says who sends, so that `user`
   *     need not
   * @param {number} [options.since]  begin behind this seq; 0: all that is held
   * @param {number} [options.last]  begin with so many newest messages, at most 1000. Without both: with the next one
   * @param {boolean} [options.presence]  whether `presence` events are wanted
   * @param {typeof WebSocket} [options.WebSocket]  another one than the browser's
   */
  constructor({ url, room, user, token, since, last, presence = false, WebSocket = globalThis.WebSocket }) {
    super();
    if (since !== undefined && last !== undefined) throw new TypeError("since and last exclude each other");
    this.#address = new URL(`/chat/${encodeURIComponent(room)}`, url ?? globalThis.location.href);
    this.#address.protocol = this.#address.protocol.replace("http", "ws");
    this.#user = user;
    this.#token = token;
    this.#WebSocket = WebSocket;
    this.#seq = since ?? null;
    this.#last = last;
    if (presence) this.#address.searchParams.set("presence", "1");
    if (user) {
      this.#address.searchParams.set("userId", user.userId);
      this.#address.searchParams.set("username", user.username);
    }
    globalThis.addEventListener?.("online", this.#onOnline);
    globalThis.addEventListener?.("offline", this.#onOffline);
    this.#watch = setInterval(() => this.#look(), WATCH_MS);
    this.#connect();
  }

  /** What the last `status` event said. */
  get status() {
    return this.#status;
  }

  /** The seq of the last message given out, or null. */
  get seq() {
    return this.#seq;
  }

  /** Call `listener` with the detail of each event; returns a function that ends that. */
  on(event, listener) {
    const wrapper = ({ detail }) => listener(detail);
    this.addEventListener(event, wrapper);
    return () => this.removeEventListener(event, wrapper);
  }

  /**
   * Send a text; while there is no connection it waits for one. Messages are stored in the order of the calls, since one
   * at a time is under way; so an error frame, which names no message, belongs to that one.
   *
   * @returns {Promise<{messageId: string, timestamp: string, clientMessageId: string}>}  once it is durable
   * @throws {ChatFlowError}  (the promise) it was refused and will not be stored, or the client was closed meanwhile
   */
  send(text) {
    return new Promise((resolve, reject) => {
      const flaw = this.#flaw(text);
      if (flaw) {
        reject(flaw);
        return;
      }
      const clientMessageId = uuid();
      const message = {
        ...(this.#user && { userId: String(this.#user.userId), username: this.#user.username }),
        message: text,
        timestamp: new Date().toISOString(),
        messageType: "TEXT",
        clientMessageId,
      };
      this.#outbox.push({ clientMessageId, frame: JSON.stringify(message), sentAt: null, resolve, reject });
      this.#flush();
    });
  }

  /** Do not wait for the next attempt. */
  connectNow() {
    if (this.#status.state === "closed" || this.#socket) return;
    this.#attempt = 0;
    this.#connect();
  }

  /** End it for good. What waits is rejected with the code "closed". */
  close() {
    this.#close("closed", null);
  }

  #close(code, reason) {
    if (this.#status.state === "closed") return;
    clearInterval(this.#watch);
    globalThis.removeEventListener?.("online", this.#onOnline);
    globalThis.removeEventListener?.("offline", this.#onOffline);
    this.#drop();
    clearTimeout(this.#retryTimer);
    this.#tell("closed", null, reason);
    const closed = new ChatFlowError(code, reason ?? "the client was closed before this message was acknowledged");
    for (const { reject } of this.#outbox.splice(0)) reject(closed);
  }

  // The connection

  #onOnline = () => this.connectNow();

  #onOffline = () => {
    // A connection over a network that is gone would stay open until something times out.
    this.#drop();
    this.#waitAndConnect("the browser is offline");
  };

  #connect() {
    clearTimeout(this.#retryTimer);
    this.#tell(isOffline() ? "offline" : "connecting");
    if (this.#token === undefined) {
      this.#open();
      return;
    }
    const asked = ++this.#asked;
    const waits = () => asked === this.#asked && this.#status.state !== "closed";
    this.#fetchToken().then(
      (token) => waits() && this.#open(token),
      (error) => waits() && this.#waitAndConnect(`there is no token: ${error?.message ?? error}`),
    );
  }

  async #fetchToken() {
    return typeof this.#token === "function" ? this.#token() : this.#token;
  }

  async #refresh() {
    const socket = this.#socket;
    try {
      const token = await this.#fetchToken();
      if (socket === this.#socket) socket.send(JSON.stringify({ type: "refresh", token }));
    } catch {
      // The connection ends with the token, and the next one asks again.
    }
  }

  #open(token) {
    const address = new URL(this.#address);
    if (this.#seq !== null) address.searchParams.set("since", this.#seq);
    else if (this.#last !== undefined) address.searchParams.set("last", this.#last);
    const socket = new this.#WebSocket(address.href, [
      ...(this.#plain ? [] : [SUBPROTOCOL]),
      ...(token === undefined ? [] : [TOKEN_SUBPROTOCOL + token]),
    ]);
    this.#socket = socket;
    this.#openedAt = null;
    this.#startedAt = this.#lastFrameAt = now();
    this.#heartbeatMs = this.#retryAfterMs = this.#behindSince = null;
    this.#head = 0;
    // A socket that was given up may still tell of itself.
    const current = (handle) => (event) => socket === this.#socket && handle.call(this, event);
    socket.onopen = current(this.#opened);
    socket.onmessage = current(this.#received);
    socket.onclose = current(this.#ended);
  }

  #opened() {
    this.#openedAt = this.#lastFrameAt = now();
    if (!this.#plain) this.#failedOffers = 0;
    this.#tell("open");
    this.#flush();
  }

  #ended({ code, reason }) {
    const wasOpen = this.#openedAt !== null;
    const wasStable = wasOpen && now() - this.#openedAt >= STABLE_MS;
    const offered = !this.#plain;
    if (code === BANNED) {
      this.#banned(reason);
      return;
    }
    this.#drop();
    this.#plain = false;
    if (wasStable) this.#attempt = 0;
    if (!wasOpen && offered && ++this.#failedOffers >= PLAIN_AFTER) {
      // Browsers refuse a server that selects no subprotocol when one is offered, and do not say that it was this. It
      // may as well have been the network; so v2 is what the next connection offers again.
      this.#plain = true;
      this.#connect();
      this.#askWhy();
      return;
    }
    if (code === TRY_AGAIN_LATER || code === DISCONNECTED) this.#attempt = Math.max(this.#attempt, 3);
    this.#waitAndConnect(wasOpen ? `the connection ended (${code})` : "the server cannot be reached");
  }

  /** A browser does not tell why a handshake was refused, but it may ask at the same address without one. */
  async #askWhy() {
    const address = new URL(this.#address);
    address.protocol = address.protocol.replace("ws", "http");
    try {
      const answer = await fetch(address.href);
      const { code, errorMessage } = answer.status === 403 ? await answer.json() : {};
      if (code === "banned" && this.#openedAt === null) this.#banned(errorMessage);
    } catch {
      // It is away, or of another origin that does not tell us.
    }
  }

  #banned(reason) {
    if (this.#status.state === "closed") return;
    this.#emit("error", { code: "banned", message: reason || "banned", retrying: false });
    this.#close("banned", reason || "banned");
  }

  /** Forget the connection, whatever becomes of it. */
  #drop() {
    this.#asked++;
    const socket = this.#socket;
    this.#socket = this.#openedAt = null;
    socket?.close();
    clearTimeout(this.#resendTimer);
    this.#resends = 0;
    for (const entry of this.#outbox) entry.sentAt = null;
  }

  #resume(reason) {
    this.#drop();
    this.#waitAndConnect(reason);
  }

  #waitAndConnect(reason) {
    clearTimeout(this.#retryTimer);
    const delay = this.#retryAfterMs ?? backoffMs(this.#attempt++);
    this.#retryTimer = setTimeout(() => this.#connect(), delay);
    this.#tell(isOffline() ? "offline" : "waiting", Date.now() + delay, reason);
  }

  /** Every second: is the connection dead, and is anything missing? */
  #look() {
    if (!this.#socket) return;
    const time = now();
    const silentMs = time - this.#lastFrameAt;
    if (this.#openedAt === null) {
      if (time - this.#startedAt > HANDSHAKE_MS) this.#ended({ code: 1006 });
    } else if (this.#heartbeatMs !== null) {
      if (silentMs > 3 * this.#heartbeatMs) this.#resume("the server is silent");
      else if (this.#behindSince !== null && time - this.#behindSince > BEHIND_MS * 2 ** Math.min(this.#stalls, 4)) {
        this.#stalls++;
        this.#resume("messages are missing");
      }
    } else {
      const sentAt = this.#outbox[0]?.sentAt ?? null;
      if (sentAt !== null && time - sentAt > ANSWER_MS && silentMs > ANSWER_MS) this.#resume("no answer");
    }
  }

  // Frames in

  #received({ data }) {
    this.#lastFrameAt = now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      frame = null;
    }
    if (frame === null || typeof frame !== "object") {
      this.#emit("error", { code: "bad_frame", message: "the server sent what is not a JSON object", retrying: false });
    } else if (frame.type !== undefined) this.#control(frame);
    else if (frame.status === "SUCCESS") this.#acknowledged(frame);
    else if (frame.status === "ERROR") this.#refused(frame);
    else if (frame.messageId !== undefined && frame.roomId !== undefined) this.#message(frame);
  }

  #control(frame) {
    switch (frame.type) {
      case "welcome":
        this.#heartbeatMs = frame.heartbeatSeconds * 1000;
        if (this.#seq === null && this.#last === undefined) this.#seq = frame.head;
        if (frame.userId !== undefined) {
          this.#emit("identity", { userId: frame.userId, username: frame.username });
        }
        break;
      case "resumed":
        if (this.#seq === null) this.#seq = frame.from - 1;
        break;
      case "reset":
        this.#seq = frame.from - 1;
        this.#behindSince = null;
        this.#emit("reset", { reason: frame.reason, from: frame.from });
        break;
      case "heartbeat":
        this.#head = frame.head;
        if (this.#seq === null || this.#seq >= frame.head) this.#behindSince = null;
        else this.#behindSince ??= now();
        break;
      case "expiring":
        if (typeof this.#token === "function") this.#refresh();
        break;
      case "goodbye":
        this.#retryAfterMs = frame.retryAfterMs;
        break;
      case "presence":
        this.#emit("presence", { members: frame.members, users: frame.users, truncated: frame.truncated });
        break;
      // "stored" says what the acknowledgement and the message say too; others are of later versions.
    }
  }

  #message(frame) {
    const expected = this.#seq === null || this.#anySeqNext ? frame.seq : this.#seq + 1;
    if (this.#seq !== null && frame.seq <= this.#seq) return;
    if (frame.seq > expected) {
      if (this.#gapAt !== this.#seq) {
        this.#gapAt = this.#seq;
        this.#resume("messages are missing");
        return;
      }
      // Resuming from here did not bring what is missing: this server has it no more, or cannot resume.
      this.#emit("reset", { reason: "gap", from: frame.seq });
    }
    this.#anySeqNext = false;
    this.#seq = frame.seq;
    this.#stalls = 0;
    if (this.#behindSince !== null) this.#behindSince = frame.seq >= this.#head ? null : now();
    this.#emit("message", frame);
  }

  #acknowledged({ messageId, timestamp, originalMessage }) {
    const clientMessageId = originalMessage?.clientMessageId;
    const index = this.#outbox.findIndex((entry) => entry.clientMessageId === clientMessageId);
    if (index < 0) return;
    const [{ resolve }] = this.#outbox.splice(index, 1);
    this.#resends = 0;
    const ack = { clientMessageId, messageId, timestamp };
    this.#emit("ack", ack);
    resolve(ack);
    this.#flush();
  }

  #refused({ code, errorMessage, field, retryAfterMs = 0 }) {
    if (field === "token") {
      this.#emit("error", { code, message: errorMessage, field, retrying: false });
      return;
    }
    const reason = RESETS[code];
    if (reason) {
      if (reason === "expired") this.#anySeqNext = true;
      else this.#seq = null;
      this.#emit("reset", { reason, from: null });
      return;
    }
    const entry = this.#outbox[0]?.sentAt == null ? undefined : this.#outbox[0];
    const clientMessageId = entry?.clientMessageId;
    const retrying = entry !== undefined && TRANSIENT.has(code);
    if (retrying) {
      this.#resendTimer = setTimeout(() => {
        entry.sentAt = null;
        this.#flush();
      }, Math.max(retryAfterMs, BACKOFF_BASE_MS + backoffMs(this.#resends++)));
    } else if (entry) {
      this.#outbox.shift();
      this.#resends = 0;
      entry.reject(new ChatFlowError(code, errorMessage, field));
      this.#flush();
    }
    this.#emit("error", { code, message: errorMessage, field, clientMessageId, retrying });
  }

  // Frames out

  #flush() {
    const [entry] = this.#outbox;
    if (!entry || entry.sentAt !== null || this.#openedAt === null) return;
    entry.sentAt = now();
    this.#socket.send(entry.frame);
  }

  /** Why the server would refuse this text, in the server's words. */
  #flaw(text) {
    if (this.#status.state === "closed") return new ChatFlowError("closed", "the client is closed");
    if (!this.#user && this.#token === undefined) return new ChatFlowError("missing_field", "a client without a user only reads", "userId");
    if (this.#outbox.length >= MAX_QUEUED) return new ChatFlowError("queue_full", "too many messages wait");
    const characters = typeof text === "string" ? [...text] : [];
    const legal = (character) => character !== "\0" && !/^[\ud800-\udfff]$/.test(character);
    if (characters.length >= 1 && characters.length <= LIMITS.messageCharacters && characters.every(legal)) return null;
    const rule = `message must be 1-${LIMITS.messageCharacters} characters, without NUL`;
    return new ChatFlowError("invalid_field", rule, "message");
  }

  // Telling

  #tell(state, retryAt = null, reason = null) {
    this.#status = { state, retryAt, reason };
    this.#emit("status", this.#status);
  }

  #emit(event, detail) {
    this.dispatchEvent(new CustomEvent(event, { detail }));
  }
}

/** Full jitter: anything from nothing to a bound that doubles with each attempt, so that clients do not come at once. */
function backoffMs(attempt) {
  return Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));
}

/** Milliseconds of a clock that nobody sets. */
function now() {
  return performance.now();
}

/** What the browser believes; it may be wrong, so attempts go on. */
function isOffline() {
  return globalThis.navigator?.onLine === false;
}

/** A random UUID. `crypto.randomUUID` is missing in pages that came over plain HTTP from another host. */
function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40; // RFC 9562: version 4
  bytes[8] = (bytes[8] & 0x3f) | 0x80; // and its variant
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
