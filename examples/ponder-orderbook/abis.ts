import { parseAbi } from "viem";

export const exchangeAbi = parseAbi([
  "event PoolCreated(address indexed orderBook, string coin, uint8 baseDecimals, uint8 quoteDecimals)",
]);

export const orderBookAbi = parseAbi([
  "event OrderPlaced(uint256 indexed orderId, address indexed user, uint8 side, uint256 price, uint256 quantity)",
  "event OrderMatched(uint256 indexed buyOrderId, uint256 indexed sellOrderId, uint8 takerSide, uint256 price, uint256 quantity)",
]);
