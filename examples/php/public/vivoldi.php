<?php
// What a shop has today: it takes a call of Vivoldi and notes what happened. It checks no signature.
// It knows nothing of the gateway, and nothing in it changes when the gateway is put before it.

$event = json_decode(file_get_contents('php://input'), true);
if (!is_array($event)) {
    http_response_code(400);
    exit;
}
$kind = $_SERVER['HTTP_X_VIVOLDI_RESOURCE_TYPE'] ?? 'unknown';
$note = ['kind' => $kind, 'group' => $event['grpIdx'] ?? null, 'coupon' => $event['cpnNo'] ?? null];
$log = getenv('WEBHOOK_LOG') ?: __DIR__ . '/../events.log';
file_put_contents($log, json_encode($note) . "\n", FILE_APPEND | LOCK_EX);

header('Content-Type: application/json');
echo json_encode(['status' => 'success', 'kind' => $kind]);
