package com.example.shop;

import java.util.Map;

/** Where the shop keeps what happened. */
public interface Events {
    /** Notes one event; {@code id} is null if the call did not come through the gateway. */
    void note(String id, String kind, Map<String, Object> event);
}
