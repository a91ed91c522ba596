package com.example.shop;

import java.util.Map;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RestController;

/**
 * What a shop has today. It checks no signature, and nothing in it changes when the gateway is put before it: Spring
 * may read the body as JSON, because the bytes were verified before they came here.
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
