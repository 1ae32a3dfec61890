# An application of PyPI's packages: requirements.txt, its own files, and `start`.
FROM jetway-apps-build:trixie AS build
COPY requirements.txt /
RUN python3 -m venv --without-pip /app/venv && /opt/pip/bin/pip --python /app/venv/bin/python install -r /requirements.txt

FROM jetway-apps-run:trixie
COPY --from=build /app /app
COPY . /app/
USER app
WORKDIR /home/app
CMD ["/app/start"]
