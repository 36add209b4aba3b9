// A walk as a new user through the dashboard, in headless Chromium: from a quickstart to a second
// client's key that is refused over quota, and why. Every action without JavaScript; every page looked
// over by axe, light and dark, wide and narrow.
//
// node walk.mjs OCTROI SCREENSHOTS: exit 0 when everything was as it should be.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { AxeBuilder } from "@axe-core/playwright";
import { chromium } from "playwright-core";

const [octroi, pictures] = process.argv.slice(2).map((path) => resolve(path));
const PASSWORD = "correct horse battery staple";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

const freePort = () => new Promise((done) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => done(port));
  });
});

const folder = mkdtempSync(join(tmpdir(), "octroi-browser-"));
mkdirSync(pictures, { recursive: true });
const [data, admin] = [await freePort(), await freePort()];
const gateway = spawn(octroi, ["quickstart", "--dir", "d", "--listen", `127.0.0.1:${data}`, "--admin", `127.0.0.1:${admin}`],
  { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
const site = `http://127.0.0.1:${admin}`;
const command = (args, input) => {
  const done = spawnSync(octroi, ["--config", "d/octroi.toml", "--output", "json", ...args], { cwd: folder, input });
  assert.equal(done.status, 0, String(done.stderr));
  return JSON.parse(done.stdout);
};
const eventually = async (what, holds) => {
  const until = Date.now() + 15_000;
  while (!await holds()) assert.ok(Date.now() < until, `never: ${what}`);
};
const steps = [];
const step = (name) => { steps.push(name); console.log(`ok  ${name}`); };

async function main() {
  await new Promise((started) => gateway.stdout.once("data", started));
  command(["admin", "create", "ada"], PASSWORD);
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
  try {
    await withScript(browser, await withoutScript(browser));
  } finally {
    await browser.close();
  }
}

const shot = (page, name) => page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });

async function signIn(page, password = PASSWORD) {
  await page.goto(`${site}/`);
  await page.getByLabel("Name").fill("ada");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}

// Everything that can be done, without a line of JavaScript.
async function withoutScript(browser) {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  const says = async (text) => assert.ok((await page.locator("main").innerText()).includes(text), `${page.url()}: ${text}`);

  await signIn(page, "not the password at all");
  assert.ok((await page.getByRole("alert").innerText()).includes("wrong"));
  await shot(page, "01-sign-in");
  await signIn(page);
  assert.equal(await page.getByRole("heading", { level: 1 }).innerText(), "Overview");
  for (const part of ["store", "journal", "issuers", "upstreams"]) await says(`${part}: well`);
  step("signing in, and not with a wrong password");

  await page.getByRole("link", { name: "Plans" }).click();
  await page.locator("summary", { hasText: "New plan" }).click();
  await page.getByLabel("Name").fill("starter");
  await page.getByLabel("Rate").fill("50/s");
  await page.getByLabel("Quota").fill("5/day");
  await page.getByRole("button", { name: "Make it" }).click();
  await says("The plan was made.");
  step("a plan of 5 requests a day");

  await page.getByRole("link", { name: "Clients" }).click();
  await page.locator("summary", { hasText: "New client" }).click();
  const form = page.locator("form[action='/clients/new']");
  await form.getByLabel("Name").fill("Second customer");
  await form.getByLabel("Plan").selectOption({ label: "starter" });
  await form.getByRole("button").click();
  await says("The client was made.");
  const client = new URL(page.url()).pathname.split("/").pop();
  step("a client on it");

  await page.locator("summary", { hasText: "New key" }).click();
  await page.locator(`form[action='/clients/${client}/keys']`).getByLabel("Name").fill("laptop");
  await page.getByRole("button", { name: "Make it" }).click();
  const key = (await page.locator("#key").innerText()).trim();
  assert.match(key, /^octroi_live_[0-9A-Za-z]{50}$/);
  await shot(page, "02-key-shown-once");
  await page.goto(`${site}/clients/${client}`);
  assert.ok(!(await page.content()).includes(key), "a key is shown once");
  step("a key that is shown once");

  const answers = [];
  for (let turn = 0; turn < 7; turn += 1) {
    const answer = await fetch(`http://127.0.0.1:${data}/hello`, { headers: { "x-api-key": key } });
    answers.push(answer);
    await answer.text();
  }
  assert.deepEqual(answers.map((answer) => answer.status), [200, 200, 200, 200, 200, 429, 429]);
  const refused = answers[6].headers.get("x-request-id");
  await fetch(`http://127.0.0.1:${data}/hello`, { headers: { "x-api-key": "octroi_live_nobody" } });
  step("the sixth request of the day is refused");

  await page.getByRole("link", { name: "Refusals", exact: true }).click();
  await says("quota_exhausted");
  await says("Second customer");
  await shot(page, "03-refusals");
  await page.locator(`a[href='/requests/${refused}']`).click();
  await says("the caller was told 429 quota_exhausted");
  await says("nothing is left of `starter.day`");
  await shot(page, "04-one-request");
  step("the refusals say why");

  await eventually("what was used is in the books", async () => {
    await page.goto(`${site}/clients/${client}`);
    return (await page.locator("main").innerText()).includes("5 of 5 units used");
  });
  await shot(page, "05-client");
  await page.goto(`${site}/usage?by=client&by2=outcome`);
  await says("Second customer");
  await shot(page, "06-usage");
  const csv = await context.request.get(`${site}/usage.csv?by=route`);
  assert.match(await csv.text(), /^route,requests,units,/);
  await page.goto(`${site}/events?client=${client}`);
  assert.equal(await page.locator("tbody tr").count(), 5);
  await page.locator("tbody tr a[href^='/requests/']").first().click();
  await says("It was admitted, and is on the bill with 1 units");
  await shot(page, "07-event");
  step("usage, its CSV, and single events");

  await page.goto(`${site}/explain`);
  const keyId = key.slice(0, 24);
  await page.getByLabel("URL or path").fill("/hello");
  await page.getByLabel("Key id").fill(keyId);
  await page.getByRole("button", { name: "Explain" }).click();
  await says("it is refused with 429 quota_exhausted");
  await says("octroi.toml:");
  await shot(page, "08-explain");
  step("a request that would be refused, explained with the line of configuration");

  await page.goto(`${site}/clients/${client}`);
  await page.locator("summary", { hasText: "Name, plan and limits" }).click();
  const change = page.locator(`form[action='/clients/${client}/change']`);
  await change.getByLabel("Plan").selectOption({ label: "none" });
  await change.getByRole("button").click();
  await says("The client was changed");
  await page.locator("summary", { hasText: "Suspend" }).click();
  await page.locator(`form[action='/clients/${client}/suspend'] button`).click();
  await says("The client is suspended");
  await page.getByRole("button", { name: "Resume" }).click();
  await says("The client may call again");
  await page.getByRole("link", { name: "laptop" }).click();
  const keyPath = new URL(page.url()).pathname;
  await page.locator("summary", { hasText: "Rotate" }).click();
  await page.getByRole("button", { name: "Rotate it" }).click();
  assert.notEqual((await page.locator("#key").innerText()).trim(), key);
  await page.getByRole("link", { name: "What is known of it" }).click();
  await page.locator("summary", { hasText: "Revoke" }).click();
  await page.locator("form[action$='/revoke'] button").click();
  await says("The key is revoked");
  step("changing, suspending, resuming, rotating, revoking");

  await page.goto(`${site}/audit?client=${client}`);
  for (const action of ["client.create", "key.create", "client.suspend", "client.resume", "key.rotate", "key.revoke"]) {
    await says(action);
  }
  await says("ada");
  assert.ok(!(await page.content()).includes(key));
  await shot(page, "09-audit");
  step("the audit has each of them");

  await page.goto(`${site}/operators`);
  await page.locator("summary", { hasText: "New operator" }).click();
  const person = page.locator("form[action='/operators/new']");
  await person.getByLabel("Name").fill("grace");
  await person.getByLabel("Password").fill("another long password");
  await person.getByLabel("Role").selectOption("auditor");
  await person.getByRole("button").click();
  await says("The operator was made");
  await page.locator("summary", { hasText: "New token" }).click();
  const token = page.locator("form[action='/tokens/new']");
  await token.getByLabel("What it is for").fill("deploys");
  await token.getByRole("button").click();
  assert.match((await page.locator("#key").innerText()).trim(), /^octroi_admin_/);
  await page.goto(`${site}/settings`);
  await says("server.listen");
  assert.ok(!(await page.content()).includes(PASSWORD));
  await page.getByRole("button", { name: "Sign out" }).click();
  await says("You are signed out.");
  await page.goto(`${site}/clients`);
  assert.ok(page.url().includes("/login?to=%2Fclients"));
  step("operators, tokens, settings, signing out");
  await context.close();
  return [`/clients/${client}`, keyPath, `/requests/${refused}`];
}

// With JavaScript: what is better then, and what axe finds.
async function withScript(browser, made) {
  const pages = ["/", "/clients", ...made, "/plans", "/usage", "/usage?by=day", "/events", "/refusals",
    "/explain?url=/x", "/audit", "/operators", "/settings", "/account", "/docs", "/nothing-here"];
  for (const [look, options] of [
    ["light", { colorScheme: "light", viewport: { width: 1280, height: 900 } }],
    ["dark", { colorScheme: "dark", viewport: { width: 1280, height: 900 } }],
    ["narrow", { colorScheme: "light", viewport: { width: 360, height: 740 } }],
  ]) {
    const context = await browser.newContext({ ...options, permissions: ["clipboard-read", "clipboard-write"] });
    const page = await context.newPage();
    const wrong = [];
    page.on("console", (message) => { if (message.type() === "error" && !message.text().includes("404")) wrong.push(message.text()); });
    page.on("pageerror", (error) => wrong.push(String(error)));
    await page.goto(`${site}/login`);
    await looked(page, look, "/login");
    await signIn(page);
    for (const path of pages) {
      await page.goto(`${site}${path}`);
      await page.locator("details").evaluateAll((all) => all.forEach((one) => { one.open = true; }));
      await looked(page, look, path);
      const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wider <= 0, `${path} is wider than a ${look} window by ${wider}`);
    }
    await page.goto(`${site}/`);
    await shot(page, `10-overview-${look}`);
    await page.goto(`${site}${made[0]}`);
    await shot(page, `11-client-${look}`);
    assert.deepEqual(wrong, [], "nothing breaks the policy of contents, and no script fails");
    step(`axe finds nothing in ${pages.length + 1} pages, ${look}`);
    if (look === "light") await lively(page);
    await context.close();
  }
}

async function lively(page) {
  await page.goto(`${site}/`);
  const refused = async () => Number(await page.locator("#numbers div:nth-child(3) dd").innerText());
  const before = await refused();
  await fetch(`http://127.0.0.1:${data}/hello`);
  await page.waitForFunction((count) => Number(document.querySelector("#numbers div:nth-child(3) dd").innerText) > count,
    before, { timeout: 15000 });
  await page.goto(`${site}/operators`);
  await page.locator("summary", { hasText: "New token" }).click();
  const token = page.locator("form[action='/tokens/new']");
  await token.getByLabel("What it is for").fill("copied");
  await token.getByRole("button").click();
  await page.getByRole("button", { name: "Copy" }).click();
  await page.getByRole("button", { name: "Copied" }).waitFor();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.equal(copied, (await page.locator("#key").innerText()).trim());
  await page.keyboard.press("Tab");
  step("the overview goes on by itself, and a token is copied");
}

async function looked(page, look, path) {
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
  const told = found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(" ")).join(", ")}`);
  assert.deepEqual(told, [], `axe, ${look}, ${path}`);
}

try {
  await main();
  console.log(`${steps.length} steps`);
} finally {
  gateway.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
}
