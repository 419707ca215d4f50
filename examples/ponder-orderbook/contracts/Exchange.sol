// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// One order book: limit orders, matched by price, then by age. Made to be read, not to hold money.
contract OrderBook {
    enum Side { Buy, Sell }

    struct Order {
        uint256 id;
        uint256 price;
        uint256 left;
    }

    event OrderPlaced(uint256 indexed orderId, address indexed user, Side side, uint256 price, uint256 quantity);
    event OrderMatched(uint256 indexed buyOrderId, uint256 indexed sellOrderId, Side takerSide, uint256 price, uint256 quantity);

    uint256 public lastOrderId;
    /// What rests of each side; the best order is the last.
    mapping(Side => Order[]) private resting;

    function place(Side side, uint256 price, uint256 quantity) external {
        uint256 id = ++lastOrderId;
        emit OrderPlaced(id, msg.sender, side, price, quantity);
        uint256 left = take(side, id, price, quantity);
        if (left > 0) rest(side, Order(id, price, left));
    }

    /// Fills the order against the other side as far as prices cross; what is left of it.
    function take(Side side, uint256 id, uint256 price, uint256 left) private returns (uint256) {
        Order[] storage book = resting[side == Side.Buy ? Side.Sell : Side.Buy];
        while (left > 0 && book.length > 0) {
            Order storage best = book[book.length - 1];
            if (side == Side.Buy ? best.price > price : best.price < price) break;
            uint256 quantity = left < best.left ? left : best.left;
            (uint256 buy, uint256 sell) = side == Side.Buy ? (id, best.id) : (best.id, id);
            emit OrderMatched(buy, sell, side, best.price, quantity);
            left -= quantity;
            best.left -= quantity;
            if (best.left == 0) book.pop();
        }
        return left;
    }

    /// Puts an order into its book, behind its equals.
    function rest(Side side, Order memory order) private {
        Order[] storage book = resting[side];
        book.push(order);
        for (uint256 i = book.length - 1; i > 0; i--) {
            Order memory better = book[i - 1];
            if (side == Side.Buy ? better.price < order.price : better.price > order.price) break;
            book[i] = better;
            book[i - 1] = order;
        }
    }
}

/// Makes order books, one a pair of currencies.
contract Exchange {
    event PoolCreated(address indexed orderBook, string coin, uint8 baseDecimals, uint8 quoteDecimals);

    function createPool(string calldata coin, uint8 baseDecimals, uint8 quoteDecimals) external {
        emit PoolCreated(address(new OrderBook()), coin, baseDecimals, quoteDecimals);
    }
}
