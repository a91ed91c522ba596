package com.example.shop;

import java.util.Map;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RestController;

/**
 * A controller as a shop may have it today. It checks no signature and does not change behind the
 * gateway. Spring may parse the body as JSON, because the gateway has verified the bytes.
 */
@RestController
public class WebhookController {
    private final Events events;

    public WebhookController(Events events) {
        this.events = events;
    }

    @PostMapping("/webhooks/vivoldi")
    public ResponseEntity<Map<String, String>> vivoldi(
            @RequestHeader("X-Vivoldi-Resource-Type") String kind,
            @RequestHeader(value = "Sealgate-Event-Id", required = false) String id,
            @RequestBody Map<String, Object> event) {
        events.note(id, kind, event);
        return ResponseEntity.ok(Map.of("status", "success", "kind", kind));
    }
}
