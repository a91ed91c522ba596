import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A handler in plain Java: {@code java Handler.java}. It checks no signature and does not change
 * behind the gateway. ../spring has the same as a Spring controller.
 */
public final class Handler {
    private static final Pattern COUPON = Pattern.compile("\"cpnNo\"\\s*:\\s*\"([A-Za-z0-9]*)\"");

    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        server.createContext("/webhooks/vivoldi", Handler::handle);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }

    private static void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
            String header = exchange.getRequestHeaders().getFirst("X-Vivoldi-Resource-Type");
            String kind = "COUPON".equals(header) || "STAMP".equals(header) || "URL".equals(header) ? header : "unknown";
            Matcher coupon = COUPON.matcher(body);
            note(kind + " " + (coupon.find() ? coupon.group(1) : "-"));
            byte[] response = ("{\"status\":\"success\",\"kind\":\"" + kind + "\"}").getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Content-Type", "application/json");
            exchange.sendResponseHeaders(200, response.length);
            exchange.getResponseBody().write(response);
        }
    }

    private static synchronized void note(String line) throws IOException {
        Path log = Path.of(System.getenv().getOrDefault("WEBHOOK_LOG", "events.log"));
        Files.writeString(log, line + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }
}
