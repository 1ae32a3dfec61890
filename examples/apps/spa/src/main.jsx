import { Excalidraw } from "@excalidraw/excalidraw";
import "@excalidraw/excalidraw/index.css";
import { createRoot } from "react-dom/client";

// What is drawn stays in the browser.
const drawn = JSON.parse(localStorage.getItem("drawn") ?? "[]");
const keep = (elements) => localStorage.setItem("drawn", JSON.stringify(elements));

createRoot(document.getElementById("root")).render(<Excalidraw initialData={{ elements: drawn }} onChange={keep} />);
