// A shared text with Hocuspocus: its server has the WebSockets, and the page beside them.
import { Server } from "@hocuspocus/server";
import sirv from "sirv";

const files = sirv("public");

const server = new Server({
  port: Number(process.env.PORT ?? 8080),
  async onRequest({ request, response }) {
    files(request, response);
    // Answered: no welcome of Hocuspocus'.
    throw null;
  },
});
server.listen();
