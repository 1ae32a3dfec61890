(async () => {
const of = id => document.getElementById(id), pause = ms => new Promise(done => setTimeout(done, ms));
const words = {scheduled: 'Finding a place for it.', loading: 'Loading the application.', starting: 'Starting the application.', waiting: 'Waiting for the application to answer.'};
let known = '', hint = '', from = Date.now(), usual = 0, over = false;
of('again').onclick = () => location.reload();
const tick = setInterval(() => { if (usual && !over) of('progress').value = Math.min(.97, (Date.now() - from) / usual); }, 250);
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + '.';
const fail = text => { over = true; clearInterval(tick); of('title').textContent = document.title = 'This did not start'; of('stage').textContent = text;
of('progress').hidden = of('hint').hidden = true; of('usual').textContent = ''; of('again').hidden = false; of('again').focus(); };
while (!over) {
let answer, body;
try {
answer = await fetch(location.pathname + location.search, {headers: {accept: 'application/vnd.jetway.stage+json', 'x-jetway-stage': known, 'x-jetway-hint': hint}, cache: 'no-store'});
body = await answer.json();
} catch { of('stage').textContent = 'The connection is gone. Trying again.'; known = hint = ''; await pause(1000); continue; }
if (!answer.ok) {
const said = sentence(body && body.message || 'something went wrong');
if (body && body.retry_after_ms) { of('stage').textContent = said; known = hint = ''; await pause(body.retry_after_ms); continue; }
fail(said); break; }
if (!body) continue;
if (body.status === 'ready') { over = true; of('stage').textContent = 'Ready.'; of('progress').value = 1; location.reload(); break; }
hint = body.hint ? body.hint.code : '';
of('hint').hidden = !hint; if (hint) of('hint').textContent = sentence(body.hint.message);
known = body.status; of('stage').textContent = words[known] || 'One moment.';
if (body.usual_ms) { usual = body.usual_ms; from = Date.now() - body.elapsed_ms;
const seconds = Math.max(1, Math.round(usual / 1000)); of('usual').textContent = 'Usually ' + (seconds === 1 ? 'a second' : seconds + ' seconds') + '.'; }
}
})();
