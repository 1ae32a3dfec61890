import react from "@vitejs/plugin-react";
import { VitePWA } from "vite-plugin-pwa";

// A service worker of Workbox' keeps everything of the application, and answers each navigation with its page.
export default {
  plugins: [
    react(),
    VitePWA({
      registerType: "autoUpdate",
      workbox: { globPatterns: ["**/*.{js,css,html}"], maximumFileSizeToCacheInBytes: 16 << 20 },
      manifest: { name: "A whiteboard", icons: [] },
    }),
  ],
};
