// The editor. Its address is the site's own, as the examples of Hocuspocus have it.
import { HocuspocusProvider } from "@hocuspocus/provider";
import Quill from "quill";
import { QuillBinding } from "y-quill";
import * as Y from "yjs";

const text = new Y.Doc();
const provider = new HocuspocusProvider({ url: `ws${location.protocol === "https:" ? "s" : ""}://${location.host}`, name: "text", document: text });
const state = document.getElementById("state");
provider.on("synced", () => (state.textContent = "synced"));
provider.on("disconnect", () => (state.textContent = "offline"));
new QuillBinding(text.getText("text"), new Quill("#editor", { theme: "snow" }), provider.awareness);
