<?php
// A handler as a shop may have it today: it receives Vivoldi's webhooks, records the event, and
// checks no signature. It does not change behind the gateway.

$event = json_decode(file_get_contents('php://input'), true);
if (!is_array($event)) {
    http_response_code(400);
    exit;
}
$kind = $_SERVER['HTTP_X_VIVOLDI_RESOURCE_TYPE'] ?? 'unknown';
$entry = ['kind' => $kind, 'group' => $event['grpIdx'] ?? null, 'coupon' => $event['cpnNo'] ?? null];
$log = getenv('WEBHOOK_LOG') ?: __DIR__ . '/../events.log';
file_put_contents($log, json_encode($entry) . "\n", FILE_APPEND | LOCK_EX);

header('Content-Type: application/json');
echo json_encode(['status' => 'success', 'kind' => $kind]);
