package com.example.shop;

import java.util.Map;

/** Record of the events that the shop has received. */
public interface Events {
    /** Records an event. {@code id} is null if the request did not pass through the gateway. */
    void note(String id, String kind, Map<String, Object> event);
}
