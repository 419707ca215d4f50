// A local chain or two, traders, reorgs, and Ponder: all that a demo or a test needs.
//
//   node local.mjs up                                chains, contracts, history, Ponder
//   node local.mjs trade [--rate 10] [--blocks 0]    trades until Ctrl-C, or for some blocks
//   node local.mjs reorg [--depth 5] [--trades 3]    other blocks, with other trades, in place of the last
//   node local.mjs restart [--hard]                  Ponder, stopped (or killed) and started again
//   node local.mjs redeploy                          Ponder into a new schema; the views follow
//   node local.mjs down
//
// Ponder's database is DATABASE_URL. What runs is noted in .local/state.json, logs lie beside it.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { encodeDeployData, encodeFunctionData, parseUnits } from "viem";

const HERE = dirname(fileURLToPath(import.meta.url));
const LOCAL = process.env.LOCAL_DIR ?? join(HERE, ".local");
const STATE = join(LOCAL, "state.json");
const VIEWS = process.env.VIEWS_SCHEMA ?? "order_book";

/** How far beta is behind, in seconds. */
const BEHIND = 3 * 86400;

const POOLS = [
  { coin: "WETH/USDC", base: 18, quote: 6, price: 2500 },
  { coin: "WBTC/USDC", base: 8, quote: 6, price: 60000 },
  { coin: "LINK/WETH", base: 18, quote: 18, price: 0.005 },
];

const options = {
  chain: { type: "string", default: "alpha" },
  rate: { type: "string", default: "10" }, // taker orders a second, of chain time
  blocks: { type: "string", default: "0" }, // 0: until Ctrl-C
  step: { type: "string", default: "0" }, // seconds from block to block; 0: the clock's, as they pass
  depth: { type: "string", default: "5" },
  trades: { type: "string", default: "3" }, // a block, in place of those that a reorg took away
  history: { type: "string", default: "120" }, // blocks traded before Ponder starts
  hard: { type: "boolean", default: false },
};

// -- what runs ----------------------------------------------------------------------------------

const state = existsSync(STATE) ? JSON.parse(readFileSync(STATE, "utf8")) : { chains: {}, deployed: 0 };
const save = () => writeFileSync(STATE, JSON.stringify(state, null, 2));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function start(name, program, args, env = {}) {
  const log = openSync(join(LOCAL, `${name}.log`), "a");
  const child = spawn(program, args, {
    cwd: HERE, detached: true, stdio: ["ignore", log, log], env: { ...process.env, ...env },
  });
  child.unref();
  return child.pid;
}

function stop(pid, signal = "SIGTERM") {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

function runs(pid) {
  try {
    process.kill(pid, 0);
    // A dead child that nobody has collected yet counts as gone.
    return !existsSync(`/proc/${pid}/stat`) || !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

async function until(what, isSo, seconds) {
  const deadline = Date.now() + seconds * 1000;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s; see the logs in ${LOCAL}`);
    await sleep(50);
  }
}

const freePort = () =>
  new Promise((resolve, reject) => {
    const probe = createServer().once("error", reject).listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });

// -- chains -------------------------------------------------------------------------------------

async function rpc(url, method, ...params) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
  });
  const { result, error } = await response.json();
  if (error) throw new Error(`${method}: ${error.message}`);
  return result;
}

function chainOf(name) {
  const chain = state.chains[name];
  if (!chain) throw new Error(`There is no chain ${name}; first: node local.mjs up`);
  return chain;
}

function anvil() {
  const require = createRequire(import.meta.url);
  const tool = `@foundry-rs/anvil-${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`;
  return require.resolve(`${tool}/bin/anvil`);
}

/** A chain that stands still until somebody mines. It begins `ago` seconds in the past. */
async function startChain(name, id, ago) {
  const port = await freePort();
  const pid = start(name, anvil(), [
    "--port", `${port}`, "--chain-id", `${id}`, "--no-mining", "--order", "fifo",
    "--timestamp", `${Math.floor(Date.now() / 1000) - ago}`, "--quiet",
  ]);
  const url = `http://127.0.0.1:${port}`;
  await until(`chain ${name}`, () => rpc(url, "eth_chainId").then(() => true, () => false), 20);
  state.chains[name] = { id, url, pid, accounts: await rpc(url, "eth_accounts"), books: [], prices: [] };
  save();
}

async function compile() {
  const { default: solc } = await import("solc"); // large: loaded only here
  const input = {
    language: "Solidity",
    sources: { "Exchange.sol": { content: readFileSync(join(HERE, "contracts/Exchange.sol"), "utf8") } },
    settings: { outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } }, optimizer: { enabled: true } },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const errors = (output.errors ?? []).filter((e) => e.severity === "error");
  if (errors.length) throw new Error(errors.map((e) => e.formattedMessage).join("\n"));
  return output.contracts["Exchange.sol"];
}

async function deploy(name, contracts) {
  const chain = chainOf(name);
  const { abi, evm } = contracts.Exchange;
  const from = chain.accounts[0];
  const send = (tx) => rpc(chain.url, "eth_sendTransaction", { from, gas: "0x500000", ...tx });
  const deployed = await send({ data: encodeDeployData({ abi, bytecode: `0x${evm.bytecode.object}` }) });
  await mine(chain, 1);
  const exchange = (await rpc(chain.url, "eth_getTransactionReceipt", deployed)).contractAddress;
  const made = [];
  for (const { coin, base, quote } of POOLS) {
    const data = encodeFunctionData({ abi, functionName: "createPool", args: [coin, base, quote] });
    made.push(await send({ to: exchange, data }));
  }
  await mine(chain, 1);
  for (const hash of made) {
    const { logs } = await rpc(chain.url, "eth_getTransactionReceipt", hash);
    chain.books.push(`0x${logs[0].topics[1].slice(-40)}`);
  }
  chain.prices = POOLS.map((pool) => pool.price);
  save();
}

/** A block; its time is `step` seconds after the last one, or now. */
async function mine(chain, step = 0) {
  const last = Number((await rpc(chain.url, "eth_getBlockByNumber", "latest", false)).timestamp);
  // A chain that lives in the past goes on there, second by second.
  const now = Math.floor(Date.now() / 1000) - (chain.behind ?? 0);
  await rpc(chain.url, "evm_setNextBlockTimestamp", step ? last + step : Math.max(last, now));
  await rpc(chain.url, "evm_mine");
}

// -- trading ------------------------------------------------------------------------------------

const PLACE = [
  {
    type: "function", name: "place", stateMutability: "nonpayable", outputs: [],
    inputs: [
      { name: "side", type: "uint8" }, { name: "price", type: "uint256" }, { name: "quantity", type: "uint256" },
    ],
  },
];
const BUY = 0, SELL = 1;
const pick = (list) => list[Math.floor(Math.random() * list.length)];

/** A quote and somebody who takes it, or part of it. Now and then two quotes are twins. */
async function tradeOnce(chain) {
  const n = Math.floor(Math.random() * POOLS.length);
  const pool = POOLS[n];
  const price = (chain.prices[n] *= 1 + (Math.random() - 0.5) * 0.002);
  const [maker, other, taker] = [pick(chain.accounts), pick(chain.accounts), pick(chain.accounts)];
  const side = pick([BUY, SELL]);
  const size = (Math.random() * 900 + 100) / 1000 / pool.price;
  const place = (from, side, price, size) => {
    const args = [side, parseUnits(price.toFixed(pool.quote), pool.quote), parseUnits(size.toFixed(pool.base), pool.base)];
    const data = encodeFunctionData({ abi: PLACE, functionName: "place", args });
    return rpc(chain.url, "eth_sendTransaction", { from, to: chain.books[n], data, gas: "0x200000" });
  };
  const twins = Math.random() < 0.2;
  await place(maker, side, price, size);
  if (twins) await place(other, side, price, size);
  const part = (twins ? 2 : 1) * pick([1, 1, 0.6]);
  const limit = side === BUY ? price * 0.99 : price * 1.01;
  await place(taker, side === BUY ? SELL : BUY, limit, size * part);
}

async function tradeBlock(chain, trades, step) {
  for (let i = 0; i < trades; i++) await tradeOnce(chain);
  await mine(chain, step);
}

async function trade({ chain: name, rate, blocks, step }) {
  const chain = chainOf(name);
  const seconds = Number(step) || 1;
  let done = 0, owed = 0, next = Date.now();
  while (!Number(blocks) || done < Number(blocks)) {
    owed += Number(rate) * seconds;
    await tradeBlock(chain, Math.floor(owed), Number(step));
    owed -= Math.floor(owed);
    done += 1;
    next += 1000;
    // A set step is history: as fast as it goes.
    if (!Number(step) && done !== Number(blocks)) await sleep(Math.max(next - Date.now(), 0));
  }
  save();
}

/** Takes the last blocks away and puts as many others, with other trades, in their place. */
async function reorg({ chain: name, depth, trades }) {
  const chain = chainOf(name);
  await rpc(chain.url, "anvil_reorg", Number(depth), []);
  await tradeBlock(chain, Number(trades), 0);
  save();
}

// -- Ponder -------------------------------------------------------------------------------------

async function startPonder() {
  if (!process.env.DATABASE_URL) throw new Error("DATABASE_URL is not set: the PostgreSQL that Ponder writes to.");
  const port = await freePort();
  const schema = `${VIEWS}_${state.deployed}`;
  const pid = start("ponder", process.execPath, [
    join(HERE, "node_modules/ponder/dist/esm/bin/ponder.js"),
    "start", "--schema", schema, "--views-schema", VIEWS, "--port", `${port}`, "--hostname", "127.0.0.1",
  ], {
    ALPHA_RPC_URL: state.chains.alpha.url,
    BETA_RPC_URL: state.chains.beta.url,
    PONDER_TELEMETRY_DISABLED: "true",
    PORT: `${port}`, // what the shell has for another program would be stronger than --port
  });
  state.ponder = { pid, port, schema };
  save();
}

async function ponderIsReady() {
  const { pid, port } = state.ponder;
  await until("Ponder", async () => {
    if (!runs(pid)) throw new Error(`Ponder ended; see ${join(LOCAL, "ponder.log")}`);
    return fetch(`http://127.0.0.1:${port}/ready`).then((r) => r.ok, () => false);
  }, 120);
}

async function stopPonder(signal) {
  const { pid } = state.ponder;
  stop(pid, signal);
  await until("Ponder's end", () => !runs(pid), 30);
}

async function restart({ hard }) {
  await stopPonder(hard ? "SIGKILL" : "SIGTERM");
  await startPonder();
  await ponderIsReady();
}

/** As a hosting service does it: the new one first, the old one goes when the new one is ready. */
async function redeploy() {
  const old = state.ponder;
  state.deployed += 1;
  await startPonder();
  try {
    await ponderIsReady();
  } catch (error) {
    stop(state.ponder.pid);
    state.ponder = old; // goes on as if nothing had been
    save();
    throw error;
  }
  stop(old.pid);
}

// -- all of it ----------------------------------------------------------------------------------

async function up({ history }) {
  if (existsSync(STATE)) throw new Error(`${STATE} is there already; first: node local.mjs down`);
  mkdirSync(LOCAL, { recursive: true });
  const blocks = Number(history);
  // Alpha's history ends about now, beta's some days ago: a chain that is far behind.
  await startChain("alpha", 31337, blocks * 60);
  await startChain("beta", 31338, blocks * 60 + BEHIND);
  const contracts = await compile();
  for (const name of ["alpha", "beta"]) {
    await deploy(name, contracts);
    for (let i = 0; i < blocks; i++) await tradeBlock(chainOf(name), Math.floor(Math.random() * 4), 59);
  }
  chainOf("beta").behind = BEHIND;
  save();
  console.log(`Two chains with ${blocks} blocks of trades each.`);
  await startPonder();
  await ponderIsReady();
  console.log(`Ponder writes schema ${state.ponder.schema}, seen through the views in ${VIEWS}.`);
}

function down() {
  if (state.ponder) stop(state.ponder.pid);
  for (const { pid } of Object.values(state.chains)) stop(pid);
  rmSync(STATE, { force: true });
}

const { values, positionals } = parseArgs({ options, allowPositionals: true });
const commands = { up, trade, reorg, restart, redeploy, down };
const command = commands[positionals[0]];
if (!command) {
  console.error(`Say one of: ${Object.keys(commands).join(", ")}`);
  process.exit(2);
}
try {
  await command(values);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
process.exit(0);
