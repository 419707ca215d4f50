import { index, onchainTable, primaryKey } from "ponder";

// What Truetape reads. Names and types matter, further columns do not.

/** One row a match. */
export const orderBookTrades = onchainTable(
  "order_book_trades",
  (t) => ({
    id: t.text().primaryKey(),
    chainId: t.integer().notNull(),
    transactionId: t.text().notNull(),
    poolId: t.text().notNull(),
    price: t.bigint().notNull(),
    quantity: t.bigint().notNull(),
    side: t.varchar().notNull(),
    timestamp: t.integer().notNull(),
  }),
  // Not needed, but without it every look at the newest trades reads the whole table.
  (table) => ({ byTimestamp: index().on(table.timestamp) }),
);

/** One row an order book. An address may be taken on several chains: the key holds both. */
export const pools = onchainTable(
  "pools",
  (t) => ({
    orderBook: t.text().notNull(),
    chainId: t.integer().notNull(),
    coin: t.text().notNull(),
    baseDecimals: t.integer().notNull(),
    quoteDecimals: t.integer().notNull(),
  }),
  (table) => ({ key: primaryKey({ columns: [table.chainId, table.orderBook] }) }),
);

/** Two rows a match: the fill of the buy order and that of the sell order. Who traded is found here. */
export const trades = onchainTable(
  "trades",
  (t) => ({
    id: t.text().primaryKey(),
    chainId: t.integer().notNull(),
    transactionId: t.text().notNull(),
    poolId: t.text().notNull(),
    orderId: t.text().notNull(),
    price: t.bigint().notNull(),
    quantity: t.bigint().notNull(),
    timestamp: t.integer().notNull(),
  }),
  (table) => ({ byTimestamp: index().on(table.timestamp) }),
);

export const orders = onchainTable("orders", (t) => ({
  id: t.text().primaryKey(),
  chainId: t.integer().notNull(),
  user: t.text().notNull(),
  side: t.varchar().notNull(),
  poolId: t.text().notNull(),
  price: t.bigint().notNull(),
  quantity: t.bigint().notNull(),
  filled: t.bigint().notNull(),
  status: t.varchar().notNull(),
  timestamp: t.integer().notNull(),
}));
