# An application of npm's packages: package.json with, perhaps, a `build`, its own files, and `start`.
FROM jetway-apps-build:trixie AS build
WORKDIR /app
COPY package.json .npmrc* ./
RUN npm install --loglevel=error
COPY . .
RUN npm run build --if-present && npm prune --omit=dev --loglevel=error

FROM jetway-apps-run:trixie
COPY --from=build --chown=1000:1000 /app /app
USER app
WORKDIR /app
CMD ["/app/start"]
