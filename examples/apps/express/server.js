// A small site with Express: a page that links to /static, files that are uploaded and downloaded, and a log of its requests.
import express from "express";
import multer from "multer";

const app = express();
const files = new Map();
const requests = [];

app.use((request, response, next) => {
  requests.push({ method: request.method, url: request.originalUrl, headers: request.rawHeaders });
  next();
});
app.use("/static", express.static("static"));
app.get("/", (request, response) => response.sendFile("index.html", { root: "." }));
app.get("/about", (request, response) => response.sendFile("about.html", { root: "." }));
app.get("/me", (request, response) => response.json({ name: request.get("x-verified-username") ?? "a stranger" }));
app.get("/requests", (request, response) => response.json(requests));
// How long the process took until it listened.
app.get("/started", (request, response) => response.json({ milliseconds: listening }));
app.get("/files", (request, response) => response.json([...files.keys()]));
app.post("/files", multer().single("file"), (request, response) => {
  files.set(request.file.originalname, request.file.buffer);
  response.redirect(303, "/");
});
app.get("/files/:name", (request, response) => response.attachment(request.params.name).send(files.get(request.params.name)));

let listening;
app.listen(process.env.PORT ?? 8080, () => (listening = process.uptime() * 1000));
