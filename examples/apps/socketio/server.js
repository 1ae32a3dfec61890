// A chat with socket.io. The page takes its client from /socket.io/, as it is by default: it polls first, and then upgrades.
import { createServer } from "node:http";
import express from "express";
import { Server } from "socket.io";

const app = express();
const server = createServer(app);
const io = new Server(server);

app.get("/", (request, response) => response.sendFile("index.html", { root: "." }));
io.on("connection", (socket) => {
  const name = socket.handshake.headers["x-verified-username"] ?? "a stranger";
  socket.emit("welcome", name);
  socket.on("say", (text) => io.emit("said", { name, text }));
});
server.listen(process.env.PORT ?? 8080);
