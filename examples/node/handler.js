// A handler as a shop may have it today: it receives Vivoldi's webhooks, records the event, and
// checks no signature. It does not change behind the gateway. This is plain Node; docs/handlers.md
// has the same with Express.

const { createServer } = require('node:http');
const { appendFileSync } = require('node:fs');

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const respond = (status, body) => {
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(body));
  };
  let event;
  try {
    event = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    return respond(400, { status: 'not JSON' });
  }
  const kind = request.headers['x-vivoldi-resource-type'] ?? 'unknown';
  const entry = { kind, group: event.grpIdx ?? null, coupon: event.cpnNo ?? null };
  appendFileSync(process.env.WEBHOOK_LOG ?? 'events.log', JSON.stringify(entry) + '\n');
  respond(200, { status: 'success', kind });
});

server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1');
