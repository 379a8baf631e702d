//! A function that behaves as it is told, on a Runtime API client of its own, so that it can do what
//! no proper client does. Its argument says how it starts, each event says what it does next.

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, abort, exit};
use std::sync::{Arc, Barrier};
use std::thread;

const RUNTIME: &str = "/2018-06-01/runtime";

/// One connection to the Runtime API.
struct Api {
    stream: BufReader<TcpStream>,
}

struct Reply {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Api {
    fn connect() -> io::Result<Self> {
        let address = env::var("AWS_LAMBDA_RUNTIME_API").map_err(io::Error::other)?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: runtime\r\n{headers}content-length: {length}\r\n\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(&[head.as_bytes(), body].concat())
    }

    fn call(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Reply> {
        self.send(method, path, "", body)?;
        self.read()
    }

    fn read(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("the host hung up"))?;
        let mut headers = HashMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body)?;
        Ok(Reply { status, headers, body })
    }

    fn respond(&mut self, id: &str, body: &[u8]) -> io::Result<u16> {
        let path = format!("{RUNTIME}/invocation/{id}/response");
        Ok(self.call("POST", &path, body)?.status)
    }

    /// A chunked response that fails in the middle and says so by trailers.
    fn stream_and_fail(&mut self, id: &str) -> io::Result<u16> {
        // {"errorMessage":"half way","errorType":"Streamed"}
        let error = "eyJlcnJvck1lc3NhZ2UiOiJoYWxmIHdheSIsImVycm9yVHlwZSI6IlN0cmVhbWVkIn0=";
        let request = format!(
            "POST {RUNTIME}/invocation/{id}/response HTTP/1.1\r\nhost: runtime\r\n\
             lambda-runtime-function-response-mode: streaming\r\ntransfer-encoding: chunked\r\n\
             trailer: Lambda-Runtime-Function-Error-Type\r\n\
             trailer: Lambda-Runtime-Function-Error-Body\r\n\r\n\
             4\r\nhalf\r\n0\r\nLambda-Runtime-Function-Error-Type: Streamed\r\n\
             Lambda-Runtime-Function-Error-Body: {error}\r\n\r\n"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        Ok(self.read()?.status)
    }

    fn stream(&mut self, id: &str) -> io::Result<u16> {
        let request = format!(
            "POST {RUNTIME}/invocation/{id}/response HTTP/1.1\r\nhost: runtime\r\n\
             transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n7\r\n second\r\n0\r\n\r\n"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        Ok(self.read()?.status)
    }
}

/// Serves events until told otherwise.
fn serve(meeting: &Barrier) -> io::Result<()> {
    let mut api = Api::connect()?;
    loop {
        let next = api.call("GET", &format!("{RUNTIME}/invocation/next"), b"")?;
        let id = next.headers.get("lambda-runtime-aws-request-id").cloned().unwrap_or_default();
        let event = String::from_utf8_lossy(&next.body[..next.body.len().min(256)]).into_owned();
        let (verb, rest) = event.split_once(' ').unwrap_or((&event, ""));
        match verb {
            "echo" => drop(api.respond(&id, rest.as_bytes())?),
            "length" => drop(api.respond(&id, next.body.len().to_string().as_bytes())?),
            "return" => {
                let status = api.respond(&id, &vec![b'x'; rest.parse().map_err(io::Error::other)?])?;
                println!("answered with {status}");
            }
            "headers" => drop(api.respond(&id, format!("{:?}", sorted(&next.headers)).as_bytes())?),
            "environment" => {
                let names: Vec<_> = env::vars().map(|(name, _)| name).collect();
                api.respond(&id, names.join(" ").as_bytes())?;
            }
            "twice" => {
                let first = api.respond(&id, b"first")?;
                let second = api.respond(&id, b"second")?;
                println!("answered with {first} and {second}");
            }
            "for" => {
                let status = api.respond(rest, b"not mine")?;
                api.respond(&id, status.to_string().as_bytes())?;
            }
            "call" => {
                let (method, path) = rest.split_once(' ').unwrap_or(("GET", "/"));
                let reply = api.call(method, path, b"body")?;
                let text = format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body));
                api.respond(&id, text.as_bytes())?;
            }
            "post" => {
                let (path, length) = rest.split_once(' ').unwrap_or(("/", "0"));
                let body = vec![b'x'; length.parse().map_err(io::Error::other)?];
                let reply = api.call("POST", path, &body)?;
                let text = format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body));
                api.respond(&id, text.as_bytes())?;
            }
            "fail" => {
                let body = format!(r#"{{"errorType":"Scripted","errorMessage":"{rest}","stackTrace":["here"]}}"#);
                api.call("POST", &format!("{RUNTIME}/invocation/{id}/error"), body.as_bytes())?;
            }
            "stream" => drop(api.stream(&id)?),
            "stream-and-fail" => drop(api.stream_and_fail(&id)?),
            "print" => {
                print!("{rest} on stdout");
                io::stdout().flush()?;
                eprint!(" and {rest} on stderr");
                api.respond(&id, b"{}")?;
            }
            "print-and-hang" => {
                println!("{rest}");
                park();
            }
            "flood" => {
                let line = [b'.'; 64 * 1024];
                for _ in 0..rest.parse::<usize>().map_err(io::Error::other)? / line.len() {
                    io::stdout().write_all(&line)?;
                }
                println!("end");
                api.respond(&id, b"{}")?;
            }
            "exit" => {
                eprintln!("giving up");
                exit(rest.parse().map_err(io::Error::other)?);
            }
            "abort" => abort(),
            "answer-and-exit" => {
                let path = format!("{RUNTIME}/invocation/{id}/response");
                api.send("POST", &path, "", b"last words")?;
                exit(0);
            }
            "reconnect-answer-and-exit" => {
                let path = format!("{RUNTIME}/invocation/{id}/response");
                Api::connect()?.send("POST", &path, "", b"last words")?;
                exit(0);
            }
            "child" => {
                let child = Command::new("sleep").arg("1000").spawn()?;
                api.respond(&id, child.id().to_string().as_bytes())?;
            }
            "child-and-exit" => {
                let child = Command::new("sleep").arg("1000").spawn()?;
                println!("{}", child.id());
                exit(3);
            }
            "child-of-its-own-group" => {
                let child = Command::new("sleep").arg("1000").process_group(0).spawn()?;
                api.respond(&id, child.id().to_string().as_bytes())?;
            }
            "meet" => {
                meeting.wait();
                api.respond(&id, rest.as_bytes())?;
            }
            "grow" => {
                let bytes = vec![1u8; rest.parse().map_err(io::Error::other)?];
                api.respond(&id, b"{}")?;
                // Held until the end of the process.
                std::mem::forget(std::hint::black_box(bytes));
            }
            _ => park(),
        }
    }
}

fn sorted(headers: &HashMap<String, String>) -> Vec<String> {
    let mut lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    lines.sort();
    lines
}

fn park() -> ! {
    loop {
        thread::park();
    }
}

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref().unwrap_or("serve") {
        "exit" => {
            eprintln!("\x1b[31mcannot find the model\x1b[0m");
            exit(3);
        }
        "init-error" => {
            println!("starting");
            let body = br#"{"errorType":"NoModel","errorMessage":"cannot find the model"}"#;
            Api::connect()?.call("POST", &format!("{RUNTIME}/init/error"), body)?;
            park();
        }
        "hang" => {
            println!("starting");
            park();
        }
        "garbage" => {
            let mut api = Api::connect()?;
            api.stream.get_mut().write_all(b"\x00\x01 this is not HTTP\r\n\r\n")?;
            io::copy(&mut api.stream, &mut io::sink())?;
            println!("the host hung up");
            exit(4);
        }
        "parallel" => {
            let threads = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(2);
            let meeting = Arc::new(Barrier::new(threads));
            let serving: Vec<_> = (0..threads)
                .map(|_| {
                    let meeting = Arc::clone(&meeting);
                    thread::spawn(move || serve(&meeting))
                })
                .collect();
            serving.into_iter().for_each(|thread| drop(thread.join()));
            Ok(())
        }
        _ => serve(&Barrier::new(1)),
    }
}
