// What a shop has today: it takes a call of Vivoldi and notes what happened. It checks no signature,
// and nothing in it changes when the gateway is put before it. Plain Node; the guide shows the same with Express.

const { createServer } = require('node:http');
const { appendFileSync } = require('node:fs');

const server = createServer(async (request, response) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const answer = (status, body) => {
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(body));
  };
  let event;
  try {
    event = JSON.parse(Buffer.concat(pieces).toString('utf8'));
  } catch {
    return answer(400, { status: 'not JSON' });
  }
  const kind = request.headers['x-vivoldi-resource-type'] ?? 'unknown';
  const note = { kind, group: event.grpIdx ?? null, coupon: event.cpnNo ?? null };
  appendFileSync(process.env.WEBHOOK_LOG ?? 'events.log', JSON.stringify(note) + '\n');
  answer(200, { status: 'success', kind });
});

server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1');
