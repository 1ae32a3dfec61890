// An editor (Quill) over a shared document (Yjs), with everybody's cursor. All addresses are relative to the page's own: below
// a token, that is where the session is.
import Quill from "quill";
import QuillCursors from "quill-cursors";
import { QuillBinding } from "y-quill";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";

Quill.register("modules/cursors", QuillCursors);
const here = new URL(".", location.href);
const name = new URLSearchParams(location.search).get("name") || "somebody";
const color = `hsl(${[...name].reduce((sum, sign) => sum * 31 + sign.charCodeAt(0), 7) % 360} 80% 40%)`;

const text = new Y.Doc();
const provider = new WebsocketProvider(here.href.replace(/^http/, "ws").replace(/\/$/, ""), "text", text, {
  // Windows of one browser would otherwise tell each other without the session.
  disableBc: true,
});
provider.awareness.setLocalStateField("user", { name, color });
const editor = new Quill("#editor", { modules: { cursors: true, toolbar: [["bold", "italic"]] }, theme: "snow" });
new QuillBinding(text.getText("text"), editor, provider.awareness);

const show = () => {
  const names = [...provider.awareness.getStates().values()].map((state) => state.user?.name);
  document.getElementById("here").textContent = names.sort().join(", ");
  document.getElementById("state").textContent = provider.synced ? "synced" : "not synced";
};
provider.awareness.on("change", show);
provider.on("sync", show);
provider.on("status", show);
show();
