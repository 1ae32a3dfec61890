import { Client } from "@colyseus/sdk";

const piece = document.getElementById("piece");
const room = await new Client(location.origin).joinOrCreate("game");
document.getElementById("state").textContent = "joined";
room.onStateChange(({ x, y, by }) => {
  piece.style.transform = `translate(${x}px, ${y}px)`;
  document.getElementById("moved").textContent = by && `${by} moved it to ${x}, ${y}`;
});
document.getElementById("board").addEventListener("click", (event) => room.send("move", { x: event.offsetX, y: event.offsetY }));
