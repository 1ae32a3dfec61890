// A shared text: the page, and y-websocket's own server for its documents.
//
// Documents are kept where Jetway mounts a directory for the session (/plane-data), if it does: then the next session of the
// same key has them. The document's name is the path of the WebSocket, as the session sees it.
const directory = "/plane-data";
const fs = require("fs");
const http = require("http");
const persistent = fs.existsSync(directory);
if (persistent) process.env.YPERSISTENCE = directory;

const { WebSocketServer } = require("ws");
const { setupWSConnection } = require("y-websocket/bin/utils");

const files = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/page.js": ["page.js", "text/javascript"],
  "/page.css": ["page.css", "text/css"],
};
const server = http.createServer((request, response) => {
  const file = files[new URL(request.url, "http://session").pathname];
  if (!file) return response.writeHead(404).end("not here\n");
  response.writeHead(200, { "content-type": file[1] });
  fs.createReadStream(`${__dirname}/public/${file[0]}`).pipe(response);
});
const sockets = new WebSocketServer({ server });
sockets.on("connection", (socket, request) => setupWSConnection(socket, request));
process.on("SIGTERM", () => process.exit(0));
server.listen(Number(process.env.PORT || 8080), "0.0.0.0");
console.log(persistent ? `documents are kept in ${directory}` : "documents are kept in memory");
