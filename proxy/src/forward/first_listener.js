if (this === undefined) throw new TypeError('here a service worker is a classic script: the imports of a module would run first');
(() => {
const own = '/.jetway/', at = self.location && self.location.origin, apply = Reflect.apply, Address = URL;
const get = (of, name) => { const found = of && Object.getOwnPropertyDescriptor(of, name); return found && found.get; };
const request = typeof FetchEvent === 'function' && get(FetchEvent.prototype, 'request'), url = typeof Request === 'function' && get(Request.prototype, 'url');
const origin = get(URL.prototype, 'origin'), path = get(URL.prototype, 'pathname'), starts = String.prototype.startsWith, concat = Array.prototype.concat, stop = Event.prototype.stopImmediatePropagation;
if (!request || !url) return;
self.addEventListener('fetch', event => {
const asked = new Address(apply(url, apply(request, event, []), []));
if (apply(origin, asked, []) === at && apply(starts, apply(path, asked, []), [own])) apply(stop, event, []);
}, true);
const install = typeof InstallEvent === 'function' && InstallEvent.prototype, add = install && install.addRoutes;
if (add) Object.defineProperty(install, 'addRoutes', {configurable: false, writable: false, value: function (rules) {
const first = {condition: {urlPattern: {pathname: own + '*'}}, source: 'network'};
return apply(add, this, [apply(concat, [first], [rules])]); }});
})();
