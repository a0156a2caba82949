// Works offline after the first visit: every file of the app is kept, and a new version waits until the app is closed.
const CACHE = "busmt-__VERSION__";
const FILES = __FILES__;

self.addEventListener("install", (event) => {
  const requests = FILES.map((name) => new Request(name, { cache: "no-cache" })); // never a file of the last version
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener("activate", (event) => {
  const takeOver = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter((name) => name.startsWith("busmt-") && name !== CACHE).map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(takeOver());
});

self.addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

/** Kept files without a look at the network; nothing is sent, and nothing goes to another address. */
async function answer(request) {
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return Response.error();
  const cache = await caches.open(CACHE);
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}
