"""A page of Shiny's: a name that is greeted, and a number that is counted up; each browser has a count of its own."""

from shiny.express import input, render, session, ui

ui.input_text("name", "Name")


@render.text
def greeting():
    return f"Hello, {input.name() or 'stranger'}!"


ui.input_action_button("count", "Count")


@render.text
def counted():
    return f"Counted {input.count()} times"


@render.text
def me():
    return session.http_conn.headers.get("x-verified-username", "a stranger")


@render.download(filename="greeting.txt")
def download():
    yield f"Hello, {input.name() or 'stranger'}!\n"
