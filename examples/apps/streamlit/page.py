"""A page of Streamlit's: a number that is counted up by a button, a name that is greeted, and a chart."""

import streamlit

streamlit.title("A session's own page")
streamlit.caption(f"Signed in: {streamlit.context.headers.get('x-verified-username', 'a stranger')}")
state = streamlit.session_state
state.setdefault("count", 0)
if streamlit.button("Count"):
    state.count += 1
streamlit.write(f"Counted {state.count} times")
name = streamlit.text_input("Name")
if name:
    streamlit.write(f"Hello, {name}!")
streamlit.line_chart([number**2 % 17 for number in range(40)], height=180)
