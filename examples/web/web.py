"""The web app: it knows who the visitor is, asks Jetway for the room's session, and sends the browser there.

The API key stays here. A browser gets a URL that lets this visitor into this room, and is good for some minutes; the
address that it ends at is the room's own, and stays the same for each of its sessions. Where that address has nothing
to show (the room's session has ended, or this browser was never let in), Jetway sends the browser back here, to
`return_url`, with `?jetway_path=…&jetway_reason=…`.
"""

import hashlib
import hmac
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from aiohttp import ClientError, ClientSession, ClientTimeout, web

JETWAY = os.environ.get("JETWAY_URL", "http://127.0.0.1:8080")
API_KEY = Path(os.environ["JETWAY_API_KEY_FILE"]).read_text().strip()
ROOM_IMAGE = os.environ["ROOM_IMAGE"]
# Where browsers reach this web app.
PUBLIC_URL = os.environ.get("PUBLIC_URL", "http://localhost:3000")
DOOR = Path(__file__).with_name("door.html").read_text()
SENT_OUT = """<!doctype html><title>Rooms</title>
<p>You were sent out of this room. <a href="/rooms/{room}">Ask to be let in again</a>"""


async def room_url(room, visitor):
    """The whole of Jetway, for a web app: one call. The same room is the same process, whoever asks."""
    body = {
        "key": {"namespace": "rooms", "name": room},
        "spawn_config": {
            "executable": {"image": ROOM_IMAGE, "cmd": ["python3", "room.py"]},
            "max_idle_seconds": 5,
        },
        "user": visitor,
        "url_form": "host",
        "return_url": f"{PUBLIC_URL}/rooms/{room}",
    }
    async with ClientSession(timeout=ClientTimeout(total=40)) as jetway:
        headers = {"authorization": f"Bearer {API_KEY}"}
        async with jetway.post(f"{JETWAY}/ctrl/connect", json=body, headers=headers) as response:
            answer = await response.json()
            if response.status != 200:
                raise web.HTTPServiceUnavailable(text=f"no room now: {answer['message']}")
            return answer["url"]


async def enter_room(request):
    """Both the way into a room and, as its `return_url`, the way back to it."""
    visitor = visitor_of(request)
    if visitor is None:
        return see_other(f"/?next={quote(request.path_qs, safe='')}")
    room = request.match_info["room"]
    if not re.fullmatch(r"[a-z0-9-]{1,40}", room):
        raise web.HTTPBadRequest(text="a room's name has small letters, digits and hyphens")
    # `revoked` is this app's own doing: it has said that this visitor may not be there.
    if request.query.get("jetway_reason") == "revoked":
        return web.Response(text=SENT_OUT.format(room=room), content_type="text/html", status=403)
    try:
        url = await room_url(room, visitor)
    except (ClientError, TimeoutError) as error:
        raise web.HTTPServiceUnavailable(text=f"Jetway does not answer at {JETWAY}: {error}")
    # The page that the visitor wanted: Jetway goes on to it, on the room's own host.
    wanted = request.query.get("jetway_path")
    return see_other(f"{url}&path={quote(wanted, safe='')}" if wanted else url)


def see_other(url):
    """The URL is for this visitor alone, so that nothing may keep it."""
    return web.Response(status=303, headers={"location": url, "cache-control": "no-store"})


# Signing in, as short as it can be: a name in a signed cookie. Yours is whatever your app has already.


def signature(name):
    return hmac.new(API_KEY.encode(), name.encode(), hashlib.sha256).hexdigest()


def visitor_of(request):
    name, _, signed = request.cookies.get("visitor", "").rpartition(".")
    name = unquote(name)
    return name if hmac.compare_digest(signed, signature(name)) else None


async def sign_in(request):
    form = await request.post()
    name = form.get("name", "").strip()[:40]
    if not name.isprintable() or not name:
        raise web.HTTPBadRequest(text="a name has 1 to 40 characters")
    # Only to a room: a page elsewhere could otherwise send a visitor through here to anywhere.
    wanted = form.get("next", "")
    response = see_other(wanted if wanted.startswith("/rooms/") else "/rooms/lobby")
    response.set_cookie("visitor", f"{quote(name, safe='')}.{signature(name)}", httponly=True, samesite="Lax")
    return response


async def door(request):
    # What the page does depends on one word; the rest is in door.html.
    return web.Response(
        text=DOOR.replace("{{signed-in}}", "yes" if visitor_of(request) else "no"),
        content_type="text/html",
        headers={"cache-control": "no-store"},
    )


app = web.Application()
app.router.add_get("/", door)
app.router.add_post("/sign-in", sign_in)
app.router.add_get("/rooms/{room}", enter_room)
web.run_app(app, port=3000)
