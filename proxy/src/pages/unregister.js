self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', event => event.waitUntil((async () => {
await self.registration.unregister();
for (const client of await self.clients.matchAll({type: 'window'})) await client.navigate(client.url).catch(() => {});
})()));
