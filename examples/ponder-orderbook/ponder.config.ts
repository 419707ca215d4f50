import { createConfig, factory } from "ponder";
import { getAbiItem } from "viem";
import { exchangeAbi, orderBookAbi } from "./abis";

// The first contract of anvil's first account: the same address on every local chain.
const EXCHANGE = "0x5FbDB2315678afecb367f032d93F642f64180aa3";

// Ponder's default ordering, "multichain": each chain at its own pace. A chain that is slow, or that
// begins later, writes rows far below the newest timestamp. Truetape does not mind.
const chains = {
  alpha: { id: 31337, rpc: process.env.ALPHA_RPC_URL ?? "http://127.0.0.1:8545", pollingInterval: 100 },
  beta: { id: 31338, rpc: process.env.BETA_RPC_URL ?? "http://127.0.0.1:8546", pollingInterval: 100 },
};
const everywhere = { alpha: { startBlock: 0 }, beta: { startBlock: 0 } };

export default createConfig({
  chains,
  contracts: {
    Exchange: { abi: exchangeAbi, address: EXCHANGE, chain: everywhere },
    OrderBook: {
      abi: orderBookAbi,
      address: factory({
        address: EXCHANGE,
        event: getAbiItem({ abi: exchangeAbi, name: "PoolCreated" }),
        parameter: "orderBook",
      }),
      chain: everywhere,
    },
  },
});
