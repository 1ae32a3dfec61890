const json = async (path) => (await fetch(path)).json();

document.getElementById("me").textContent = (await json("/me")).name;
for (const name of await json("/files")) {
  const link = Object.assign(document.createElement("a"), { href: `/files/${encodeURIComponent(name)}`, textContent: name });
  document.getElementById("files").appendChild(document.createElement("li")).append(link);
}
