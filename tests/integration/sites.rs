//! The recipes of docs/behind-nginx-and-apache.md, unchanged, with real web servers.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    documents::blocks,
    kit::{Connection, Event, Program, Setup, Upstream, free_address, tool},
};

/// Returns the two configuration blocks of a web server: for its public site and for its inner
/// address.
fn recipe(
    language: &str,
    gateway: SocketAddr,
    inner: SocketAddr,
    handler: SocketAddr,
) -> [String; 2] {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/behind-nginx-and-apache.md");
    let found = blocks(&fs::read_to_string(page).expect("readable"), language);
    let own = |block: String| {
        block
            .replace("127.0.0.1:8081", &gateway.to_string())
            .replace("127.0.0.1:8082", &inner.to_string())
            .replace("127.0.0.1:8080", &handler.to_string())
    };
    let found: Vec<_> = found.into_iter().map(own).collect();
    found.try_into().expect("two blocks")
}

/// Sends events through the site, the gateway, the inner site and the handler. `configuration`
/// builds the web server's file from its directory, the site's address and the two blocks. `test`
/// and `run` are the arguments that check the file and run the server.
async fn forwards_only_authentic_events(
    program: &str,
    language: &str,
    configuration: impl Fn(&str, SocketAddr, &[String; 2]) -> String,
    (test, run): (&[&str], &[&str]),
) {
    let Some(_) = tool(program) else { return };
    let handler = Upstream::start().await;
    let (site, inner) = (free_address(), free_address());
    let gateway = Setup::new(&handler)
        .plain()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .upstream(&format!("\"http://{inner}\""))
        .start();
    let recipe = recipe(language, gateway.addresses().http[0], inner, handler.address());
    let dir = gateway.dir.path();
    let file = dir.join("site.conf");
    let place = dir.to_str().expect("text");
    fs::write(&file, configuration(place, site, &recipe)).expect("written");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(dir).stdin(Stdio::null());
        command
    };
    let tested = command(test).output().expect("it runs");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    let mut running = Program::silent(&mut command(run));
    running.listens(site).await;

    let event = Event::default().with(&["X-Forwarded-For: 203.0.113.9", "Sealgate-Verified: x"]);
    let reply = Connection::plain(site).await.exchange(&event.request()).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "{}", reply.head);
    let seen = handler.only();
    assert!(seen.request_line().starts_with("POST /webhooks/vivoldi HTTP/1."), "{}", seen.head);
    assert_eq!(seen.body, event.body);
    assert_eq!(seen.header("sealgate-verified"), Some("vivoldi"));
    assert_eq!(seen.header("host"), Some("localhost"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    let client = seen.header("x-forwarded-for").expect("it is there");
    assert!(client.ends_with("127.0.0.1"), "{client}");
    let again = Connection::plain(site).await.exchange(&event.retried().request()).await;
    assert_eq!((again.status, again.header("sealgate-answer")), (200, Some("duplicate")));
    let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
    let forged = Connection::plain(site).await.exchange(&forged.request()).await;
    assert_eq!((forged.status, forged.header("sealgate-answer")), (401, Some("rejected")));
    assert_eq!(handler.requests().len(), 1);
}

#[tokio::test]
async fn nginx_recipe_forwards_only_authentic_events() {
    let configuration = |dir: &str, site: SocketAddr, [public, inner]: &[String; 2]| {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {dir}/{name};\n"))
            .collect();
        format!(
            "daemon off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}server {{\nlisten {site};\n{public}\n}}\n{inner}\n}}\n"
        )
    };
    let arguments =
        (&["-t", "-p", ".", "-c", "site.conf"][..], &["-p", ".", "-c", "site.conf"][..]);
    forwards_only_authentic_events("nginx", "nginx", configuration, arguments).await;
}

#[tokio::test]
async fn apache_recipe_forwards_only_authentic_events() {
    let configuration = |dir: &str, site: SocketAddr, [public, inner]: &[String; 2]| {
        let modules: String = ["mpm_event", "authz_core", "proxy", "proxy_http", "headers"]
            .iter()
            .map(|name| {
                format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
            })
            .collect();
        format!(
            "{modules}ServerRoot {dir}\nDefaultRuntimeDir {dir}\nPidFile {dir}/pid\nErrorLog {dir}/error.log\n\
             ServerName localhost\nUser www-data\nGroup www-data\nListen {site}\n\
             <VirtualHost {site}>\n{public}\n</VirtualHost>\n{inner}\n"
        )
    };
    let arguments = (
        &["-t", "-d", ".", "-f", "site.conf"][..],
        &["-d", ".", "-f", "site.conf", "-DFOREGROUND"][..],
    );
    forwards_only_authentic_events("apache2", "apache", configuration, arguments).await;
}
