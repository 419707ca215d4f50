import { db } from "ponder:api";
import schema from "ponder:schema";
import { Hono } from "hono";
import { client } from "ponder";

// Ponder asks for an API; the least there is. Truetape reads the tables, not this.
const app = new Hono();
app.use("/sql/*", client({ db, schema }));

export default app;
