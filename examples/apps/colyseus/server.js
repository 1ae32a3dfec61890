// A board with Colyseus: each player moves the one piece, and all see it and the player who moved it.
import { schema, t } from "@colyseus/schema";
import { defineRoom, defineServer, Room } from "colyseus";
import express from "express";

const Board = schema({ x: t.number().default(0), y: t.number().default(0), by: t.string().default("") }, "Board");

class Game extends Room {
  state = new Board();
  messages = {
    move: (client, { x, y }) => Object.assign(this.state, { x, y, by: client.auth.name }),
  };

  static onAuth(token, options, context) {
    return { name: context.headers.get("x-verified-username") ?? "a stranger" };
  }
}

const server = defineServer({
  rooms: { game: defineRoom(Game) },
  express: (app) => app.use(express.static("public")),
});
server.listen(Number(process.env.PORT ?? 8080));
