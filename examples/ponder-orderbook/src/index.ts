import { ponder } from "ponder:registry";
import { orderBookTrades, orders, pools, trades } from "ponder:schema";

const sideName = (side: number) => (side === 0 ? "Buy" : "Sell");

ponder.on("Exchange:PoolCreated", async ({ event, context }) => {
  await context.db.insert(pools).values({
    orderBook: event.args.orderBook.toLowerCase(),
    chainId: context.chain.id,
    coin: event.args.coin,
    baseDecimals: event.args.baseDecimals,
    quoteDecimals: event.args.quoteDecimals,
  });
});

ponder.on("OrderBook:OrderPlaced", async ({ event, context }) => {
  const poolId = event.log.address.toLowerCase();
  await context.db.insert(orders).values({
    id: `${context.chain.id}-${poolId}-${event.args.orderId}`,
    chainId: context.chain.id,
    user: event.args.user.toLowerCase(),
    side: sideName(event.args.side),
    poolId,
    price: event.args.price,
    quantity: event.args.quantity,
    filled: 0n,
    status: "OPEN",
    timestamp: Number(event.block.timestamp),
  });
});

ponder.on("OrderBook:OrderMatched", async ({ event, context }) => {
  const chainId = context.chain.id;
  const poolId = event.log.address.toLowerCase();
  const { price, quantity } = event.args;
  const match = {
    id: `${event.transaction.hash}-${event.log.logIndex}`,
    chainId,
    transactionId: event.transaction.hash,
    poolId,
    price,
    quantity,
    timestamp: Number(event.block.timestamp),
  };
  await context.db.insert(orderBookTrades).values({ ...match, side: sideName(event.args.takerSide) });

  for (const [side, number] of [["buy", event.args.buyOrderId], ["sell", event.args.sellOrderId]] as const) {
    const orderId = `${chainId}-${poolId}-${number}`;
    await context.db.insert(trades).values({ ...match, id: `${match.id}-${side}`, orderId });
    // A chain that was reorganised may tell of a match and not of its order: the match is a trade all the
    // same, and an indexer that dies of it indexes nothing any more.
    if ((await context.db.find(orders, { id: orderId })) === null) continue;
    await context.db.update(orders, { id: orderId }).set((order) => {
      const filled = order.filled + quantity;
      return { filled, status: filled === order.quantity ? "FILLED" : "PARTIALLY_FILLED" };
    });
  }
});
