// The least of a chat on socket.io: a room by the query, a message to all in it, an acknowledgement.
const { createServer } = require("http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"], serveClient: false });
io.on("connection", (socket) => {
  const room = socket.handshake.query.room;
  socket.join(room);
  socket.on("message", (message, acknowledge) => {
    io.to(room).emit("message", message);
    acknowledge("ACKNOWLEDGED");
  });
});
http.listen(Number(process.argv[2]), "127.0.0.1");
