"""A page of Gradio's: a name that is greeted, and a file whose lines are counted and given back in capitals."""

import os
import pathlib
import tempfile

import gradio


def greet(name, request: gradio.Request):
    return f"Hello, {name}! You are signed in as {request.headers.get('x-verified-username', 'a stranger')}."


def capitals(file):
    text = pathlib.Path(file).read_text()
    answer = pathlib.Path(tempfile.mkdtemp(), "capitals.txt")
    answer.write_text(text.upper())
    return f"{len(text.splitlines())} lines", str(answer)


with gradio.Blocks(title="A page") as page:
    name = gradio.Textbox(label="Name", elem_id="name")
    greeting = gradio.Textbox(label="Greeting", elem_id="greeting")
    gradio.Button("Greet", elem_id="greet").click(greet, name, greeting)
    file = gradio.File(label="A text", elem_id="file")
    lines = gradio.Textbox(label="Lines", elem_id="lines")
    answer = gradio.File(label="In capitals", elem_id="answer")
    file.upload(capitals, file, [lines, answer])

page.launch(server_name="0.0.0.0", server_port=int(os.environ.get("PORT", "8080")))
